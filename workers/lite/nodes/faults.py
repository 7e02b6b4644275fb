"""Nodes that go wrong on purpose, or emit what a custom node might. Only offered with --fault-nodes."""

import json
import os
import time
from typing import Any

from workers.lite.folders import inside
from workers.lite.node import NodeClass, OutOfMemoryError, Result, Running, choice, integer, link, number, text
from workers.lite.nodes.pixels import Pixels

MIB = 1024 * 1024


def raise_error(run: Running, *, image: Pixels, kind: str) -> Result:
    match kind:
        case "runtime":
            raise RuntimeError("lite: deliberate failure")
        case "value":
            raise ValueError("lite: deliberate failure")
        case "oom":
            raise OutOfMemoryError("Allocation on device 0 would exceed allowed memory. (out of memory)")
        case "crash":
            os._exit(1)
        case _:
            return Result((image,))


def hang(run: Running, *, image: Pixels, seconds: float) -> Result:
    """Blocks without looking for an interrupt."""
    time.sleep(seconds)
    return Result((image,))


def emit(run: Running, *, ui: str, image: Pixels | None = None, write: str = "") -> Result:
    """Shows whatever JSON it is given, after it wrote a file: `3d/x.glb`, or `x.png [temp]`. An image only makes it
    wait for one."""
    if write:
        name, kind = run.folders.split_annotation(write)
        path = inside(run.folders.of(kind or "output") or run.folders.output, name)
        if path is None:
            raise ValueError(f"{write!r} is no file below ComfyUI's folders")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"glTF" + name.encode())
    return Result(ui=json.loads(ui))


def noise(run: Running, *, mebibytes: int, filename_prefix: str, image: Pixels | None = None) -> Result:
    """Writes a file of random bytes, quickly: one random block, repeated. An image only makes it wait for one."""
    folder, base, counter = run.folders.save_path(filename_prefix, run.folders.output)
    path = folder / f"{base}_{counter:05}_.bin"
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(block)
    return Result(ui={"files": [run.folders.entry(path, "output")]})


def open_inputs(run: Running, **values: Any) -> Result:
    """Shows which values it was given, as JSON: as packs have nodes that declare a dict which contains every name."""
    shown = json.dumps(values, sort_keys=True, default=lambda value: type(value).__name__)
    return Result((shown,), {"text": [shown]})


def run_code(run: Running, *, code: str) -> Result:
    """Runs Python that the graph brings, in the engine's process; shows what it assigns to `result`."""
    names: dict[str, Any] = {"folders": run.folders, "result": None}
    exec(code, names)  # noqa: S102  it stands for the custom nodes that do so
    return Result(ui={"text": [json.dumps(names["result"])]})


NODES = (
    NodeClass(
        "LiteRaise",
        raise_error,
        {"image": link("IMAGE"), "kind": choice("runtime", "value", "oom", "crash", "none")},
        outputs=("IMAGE",),
    ),
    NodeClass("LiteHang", hang, {"image": link("IMAGE"), "seconds": number(60.0, 0.0, 3600.0)}, outputs=("IMAGE",)),
    NodeClass("LiteEmit", emit, {"ui": text("{}")}, optional={"image": link("IMAGE"), "write": text()}, is_output=True),
    NodeClass("LiteOpenInputs", open_inputs, {}, outputs=("STRING",), is_output=True, open_inputs=True),
    NodeClass("LiteRunCode", run_code, {"code": text()}, is_output=True),
    NodeClass(
        "LiteNoise",
        noise,
        {"mebibytes": integer(1, 1, 4096), "filename_prefix": text("noise")},
        optional={"image": link("IMAGE")},
        is_output=True,
    ),
)

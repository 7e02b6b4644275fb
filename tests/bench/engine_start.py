"""The phases of an engine's start: its process, its socket, its catalogue and its first prompt."""

import contextlib
import socket
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.bench.figures import Figure
from tests.support.engines import EngineChoice, engine_choices, engine_client, saved
from workers.supervise import SOCKET_VARIABLE

ROUNDS = 3
LONGEST_S = 120.0
POLL_S = 0.01
PHASES = ("socket open", "/object_info answered", "first prompt done")


def rows() -> list[Figure]:
    """Return the rows of the lite engine and of the configured ComfyUI, if there is one."""
    return [row for choice in engine_choices() if choice.settings.comfyui_url is None for row in _rows(choice)]


def _rows(choice: EngineChoice) -> list[Figure]:
    rounds = [_phases(choice) for _ in range(ROUNDS)]
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    return [
        Figure(f"engine {choice.name}: start to {phase}", f"{seconds:.2f} s")
        for phase, seconds in zip(PHASES, medians, strict=True)
    ]


def _phases(choice: EngineChoice) -> tuple[float, ...]:
    """Return the seconds of each phase since the start of the process."""
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
        spec, path = choice.spec(Path(folder, "engine")), Path(folder, "socket")
        spec.folders.make()
        environment = {**spec.environment, SOCKET_VARIABLE: str(path)}
        began = time.perf_counter()
        process = subprocess.Popen(
            spec.command, cwd=spec.cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with _ended(process), engine_client(f"unix:{path}") as client:
            _until(lambda: _is_open(path))
            is_open = time.perf_counter()
            client.get("/object_info").raise_for_status()
            declared = time.perf_counter()
            prompt = {"prompt": saved("first"), "prompt_id": str(uuid.uuid4()), "client_id": str(uuid.uuid4())}
            client.post("/prompt", json=prompt).raise_for_status()
            _until(lambda: prompt["prompt_id"] in client.get(f"/history/{prompt['prompt_id']}").json())
            return tuple(moment - began for moment in (is_open, declared, time.perf_counter()))


@contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def _is_open(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if check():
                return
        time.sleep(POLL_S)
    raise AssertionError("the condition never held")

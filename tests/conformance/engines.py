"""Starts the engines under test: real processes on free ports, with their own folders.

They listen on TCP, as users start them; a worker's own engine listens on a UNIX socket."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import comfyui_modal
from tests.conformance.graphs import OwnNodes
from tests.support.plain_http import NO_TLS

READY_WITHIN_S = 120.0
STOPS_WITHIN_S = 20.0
_OWN_NODES_PACK = "wire_nodes"


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine. `nodes` names its test nodes."""

    url: str
    version: str
    nodes: OwnNodes


@dataclass(frozen=True, slots=True)
class RealComfy:
    """The location of a real ComfyUI: a folder with its interpreter, or the URL of a running one."""

    folder: Path | None = None
    python: Path | None = None
    url: str | None = None

    @classmethod
    def configured(cls, environment: Mapping[str, str]) -> "RealComfy | None":
        if environment.get("COMFYUI_URL"):
            return cls(url=environment["COMFYUI_URL"].rstrip("/"))
        if environment.get("COMFYUI_DIR") and environment.get("COMFYUI_PYTHON"):
            return cls(Path(environment["COMFYUI_DIR"]), Path(environment["COMFYUI_PYTHON"]))
        return None

    def has_own_nodes(self) -> bool:
        if self.folder is not None:
            return (self.folder / "custom_nodes" / _OWN_NODES_PACK).is_dir()
        return bool(_get(f"{self.url}/object_info/WireSlowSteps"))


@contextlib.contextmanager
def lite(folder: Path) -> Iterator[Engine]:
    command = comfyui_modal.command("workers.lite", "--fault-nodes", f"--base-directory={folder}")
    with _process(command, folder) as url:
        yield Engine(url, _version(url), OwnNodes(lite=True))


@contextlib.contextmanager
def real(place: RealComfy, folder: Path) -> Iterator[Engine]:
    if place.url is not None:
        yield Engine(place.url, _version(place.url), OwnNodes(lite=False))
        return
    assert place.folder is not None
    for name in ("input", "output", "temp", "user"):
        (folder / name).mkdir()
    folders = [f"--{name}-directory={folder / name}" for name in ("input", "output", "user")]
    folders += [f"--temp-directory={folder}", f"--database-url=sqlite:///{folder / 'user' / 'comfyui.db'}"]
    quiet = ["--disable-auto-launch", "--dont-print-server", "--cpu", "--preview-method=auto"]
    command = [str(place.python), str(place.folder / "main.py"), *folders, *quiet]
    with _process(command, folder, cwd=place.folder) as url:
        yield Engine(url, _version(url), OwnNodes(lite=False))


@contextlib.contextmanager
def _process(command: list[str], folder: Path, cwd: Path | None = None) -> Iterator[str]:
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (folder / "engine.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--listen=127.0.0.1", f"--port={port}"], stdout=log, stderr=log, cwd=cwd, env=environment
        )
        try:
            _wait_ready(url, process, folder / "engine.log")
            yield url
        finally:
            process.terminate()
            process.wait(STOPS_WITHIN_S)


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        with contextlib.suppress(httpx.HTTPError):
            _get(f"{url}/system_stats")
            return
        time.sleep(0.05)
    raise AssertionError(log.read_text(errors="replace")[-4000:])


def _version(url: str) -> str:
    return str(_get(f"{url}/system_stats")["system"]["comfyui_version"])


def _get(url: str) -> Any:
    return httpx.get(url, timeout=10, verify=NO_TLS).raise_for_status().json()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

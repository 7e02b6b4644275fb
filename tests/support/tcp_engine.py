"""An engine that another process runs: a worker's own engine program on a TCP port of loopback."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from infra.local.s3_server import free_port
from tests.support.engines import EngineChoice
from tests.support.plain_http import NO_TLS

READY_WITHIN_S = 120.0
STOPS_WITHIN_S = 20.0


@contextmanager
def tcp_engine(choice: EngineChoice, parent: Path) -> Iterator[str]:
    """Yield the engine's URL once it answers. `parent` contains its folders."""
    with starting(choice, parent) as (url, process):
        deadline = time.monotonic() + READY_WITHIN_S
        while not _answers(url):
            assert process.poll() is None, "the engine has ended"
            assert time.monotonic() < deadline, "the engine is not ready"
            time.sleep(0.05)
        yield url


@contextmanager
def starting(choice: EngineChoice, parent: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Yield the URL at which the engine will answer, and its process."""
    spec, port = choice.spec(parent), free_port()
    spec.folders.make()
    # Without the variable that names a socket, both engines listen on TCP.
    command = [*(part for part in spec.command if not part.startswith("--port=")), f"--port={port}"]
    process = subprocess.Popen(
        command, cwd=spec.cwd, env=dict(spec.environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(STOPS_WITHIN_S)


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/object_info", timeout=30, trust_env=False, verify=NO_TLS).status_code == 200
    return False

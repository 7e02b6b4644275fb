"""Processes with preloaded modules: see `fork_server`."""

import asyncio
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

from tests.support.environment import clean_environment

_PROGRAM = Path(__file__).with_name("fork_server.py")
_LOCK = threading.Lock()


class Forked:
    """One process with the interface of `subprocess` and `asyncio` processes; `returncode` is None while it runs."""

    def __init__(self, report: socket.socket) -> None:
        self._report = report
        self._lines = report.makefile()
        first = self._lines.readline()
        if not first:
            with self._report, self._lines:
                raise RuntimeError("the fork server has ended")
        self.pid = int(first)
        self.returncode: int | None = None
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        with self._report, self._lines:
            self.returncode = int(self._lines.readline() or -signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._waiting.join(timeout)
        if self.returncode is None:
            raise TimeoutError(f"process {self.pid} has not ended in {timeout} s")
        return self.returncode

    async def ended(self) -> int:
        return await asyncio.to_thread(self.wait)


def fork(
    preloaded: Sequence[str],
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    output: IO[str] | IO[bytes],
    errors: IO[str] | IO[bytes],
    folder: Path,
    path: Sequence[str] = (),
) -> Forked:
    """Run a module, the first of `arguments`, like `python -m`, with `path` in front of Python's search path.

    `environment` replaces the whole environment, and `preloaded` names the modules to import before.
    """
    wanted = {"environment": {**environment}, "folder": str(folder), "path": [*path], "arguments": [*arguments]}
    ours, theirs = socket.socketpair()
    with theirs, Path(os.devnull).open() as nothing, _LOCK:
        files = [nothing.fileno(), output.fileno(), errors.fileno(), theirs.fileno()]
        socket.send_fds(_server(tuple(preloaded)), [json.dumps(wanted).encode()], files)
    return Forked(ours)


@cache
def _server(preloaded: tuple[str, ...]) -> socket.socket:
    """Return the server for a set of modules, one per test process, started on first use."""
    ours, theirs = socket.socketpair()
    environment = clean_environment() | {"MODAL_CONFIG_PATH": os.devnull}  # modal reads it when it is imported
    command = [sys.executable, "-I", "-u", str(_PROGRAM), str(theirs.fileno()), *preloaded]
    process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours

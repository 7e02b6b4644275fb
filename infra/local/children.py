"""Supervision of child processes, on both sides: start, restart with exponential backoff, readiness, stop.

A child that exits with `MISCONFIGURED` is not restarted. Its log ends with `cannot start:` and the reason, which
`Child.refused` holds.

A child's standard input is a pipe that the parent never writes to. End-of-file on it means that the parent has died,
even by kill -9, and that the child must stop too (`stop_with_parent`). A child that is ready writes a readiness file,
which is replaced atomically.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

import comfyui_modal
from infra.local.connection import replace_private
from infra.local.log_files import end_of
from workers.supervise import kill_group

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 5.0
LAST_WORDS_BYTES = 300
"""How much of the end of a child's log is searched for its last line, which usually names the error."""
STEADY_AFTER_S = 5.0
"""A child that ran longer than this starts again with the first backoff."""
REASON_BYTES = 4000
"""The longest reason for a refusal that is read from a log."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A command to supervise. `module` belongs to this project; `environment` is the child's whole environment."""

    name: str
    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    pass_fds: Sequence[int] = field(default=())


class Child:
    """One supervised process. `pid` is None while it is down; `refused` is the reason why it cannot start at all."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.pid: int | None = None
        self.refused: str | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervision: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start supervision in a task. Call it inside the running loop."""
        self._supervision = asyncio.create_task(self._supervise(), name=f"supervise {self.spec.name}")

    async def stop(self, grace_s: float) -> None:
        """Send SIGTERM, and SIGKILL to the whole process group after `grace_s`."""
        # First, or the supervision would start the process again when it ends.
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.gather(self._supervision, return_exceptions=True)
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            logger.warning("%s did not stop within %.0f s: killed", self.spec.name, grace_s)
        kill_group(self._process.pid)  # also after a clean exit: the child may have left processes behind
        await self._process.wait()

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = FIRST_BACKOFF_S / 2
        while True:
            started = loop.time()
            if await self._run_once() == comfyui_modal.MISCONFIGURED:  # another start would end in the same way
                self.refused = _reason(self.spec.log)
                return
            lived_s = loop.time() - started
            backoff_s = FIRST_BACKOFF_S if lived_s > STEADY_AFTER_S else min(2 * backoff_s, LONGEST_BACKOFF_S)
            last_line = _last_line(self.spec.log)
            logger.warning(
                "%s ended after %.1f s (%s); starting it again in %.2f s", self.spec.name, lived_s, last_line, backoff_s
            )
            await asyncio.sleep(backoff_s)

    async def _run_once(self) -> int:
        """Run the child until it exits, and return its exit code."""
        # Appending, because `log_files` truncates the file in place.
        with self.spec.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *comfyui_modal.command(self.spec.module, *self.spec.arguments),
                stdin=asyncio.subprocess.PIPE,  # its end shows the child that this process has died
                stdout=log,
                stderr=log,
                env=dict(self.spec.environment),
                pass_fds=self.spec.pass_fds,
                # A group of its own: Ctrl-C in the terminal reaches `up` alone, which stops its children in order.
                start_new_session=True,
            )
        self.pid = self._process.pid
        code = await self._process.wait()
        # Processes that a crashed child left behind would keep its GPU memory and its sockets.
        kill_group(self._process.pid)
        self.pid = None
        return code


def _reason(log: Path) -> str:
    """Return the text after the last `cannot start:` in the log, or the last line if there is none."""
    _, marker, reason = end_of(log, REASON_BYTES).rpartition(comfyui_modal.REASON)
    # A library may end the process with the same exit code, without the marker.
    return reason.strip() if marker else _last_line(log)


def _last_line(log: Path) -> str:
    lines = end_of(log, LAST_WORDS_BYTES).splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")


class Readiness(BaseModel):
    """The readiness of a process. A worker adds `engine_url` and `engine_pid` when its engine is ready."""

    model_config = ConfigDict(frozen=True)

    pid: int
    engine_url: str | None = None
    engine_pid: int | None = None


def announce(path: Path, readiness: Readiness) -> None:
    replace_private(path, readiness.model_dump_json())


def readiness_of(path: Path, pid: int | None) -> Readiness | None:
    """Return the readiness of the process with this pid; None if the file is missing or of an earlier process."""
    try:
        readiness = Readiness.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return readiness if readiness.pid == pid else None


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set. Call it inside the running loop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def stop_with_parent() -> asyncio.Event:
    """Return an event that SIGTERM, SIGINT and the death of the parent set."""
    stop = stop_on_signals()
    await _watch_input(stop)
    return stop


async def parent_gone() -> asyncio.Event:
    """Return an event that end-of-file on standard input sets: the pipe of `infra.local.children`."""
    gone = asyncio.Event()
    await _watch_input(gone)
    return gone


async def _watch_input(event: asyncio.Event) -> None:
    await asyncio.get_running_loop().connect_read_pipe(lambda: _EndOfInput(event), sys.stdin)


class _EndOfInput(asyncio.Protocol):
    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop.set()

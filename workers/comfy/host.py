"""`EngineHost`: the source of a worker's engine, either a process that it starts or a running server."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Protocol

from storage.intake.host_paths import HostPaths
from storage.pools.worker_facts import AttentionChoice
from workers.attention import NOT_OURS
from workers.comfy.engine import ComfyEngine
from workers.comfy.http_engine import HttpEngine
from workers.isolation import Isolation

LOG_LINES = 500


class EngineLog:
    """An engine's output: the newest `limit` lines, and the section of the job whose lines they are."""

    def __init__(self, limit: int) -> None:
        self._lines: deque[str] = deque(maxlen=limit)
        self._position = 0
        self._section: LogSection | None = None

    @property
    def position(self) -> int:
        """The number of lines so far, including those before restarts."""
        return self._position

    def append(self, line: str) -> None:
        self._lines.append(line)
        self._position += 1

    def tail(self, lines: int) -> list[str]:
        return list(self._lines)[-lines:]

    def since(self, position: int) -> list[str]:
        """Return the lines after that position that are still kept."""
        wanted = min(self._position - position, len(self._lines))
        return list(self._lines)[len(self._lines) - wanted :]

    def open_section(self) -> "LogSection":
        """Begin the lines of another job, where those of the job before end."""
        self.close_section()
        self._section = LogSection(self)
        return self._section

    def close_section(self) -> None:
        """End the lines of the last job: what follows is not its own."""
        if self._section is not None:
            self._section.close()
            self._section = None


class LogSection:
    """The lines of one job, which stay while the engine writes those of the next one."""

    def __init__(self, log: EngineLog) -> None:
        self._log = log
        self._start = log.position
        self._closed: tuple[int, list[str]] | None = None

    @property
    def position(self) -> int:
        """The number of the log's lines up to the end of this section, or so far."""
        return self._log.position if self._closed is None else self._closed[0]

    def lines(self) -> list[str]:
        """Return the lines that are still kept."""
        return self._log.since(self._start) if self._closed is None else self._closed[1]

    def close(self) -> None:
        if self._closed is None:
            self._closed = (self._log.position, self._log.since(self._start))


class EngineHost(Protocol):
    """`engine` and `url` may be used between `start` and `stop`."""

    @property
    def engine(self) -> ComfyEngine: ...

    @property
    def url(self) -> str: ...

    @property
    def log(self) -> EngineLog:
        """The engine's output; empty for a server that is not ours."""
        ...

    @property
    def paths(self) -> HostPaths:
        """The labels of its folders in text that tenants read."""
        ...

    @property
    def attention(self) -> AttentionChoice:
        """The attention that the engine was started with."""
        ...

    @property
    def isolation(self) -> Isolation:
        """The isolation of the engine from its worker."""
        ...

    @property
    def start_phases(self) -> Mapping[str, float]:
        """The phases of the last start, in seconds. Phases may overlap."""
        ...

    @property
    def pid(self) -> int | None:
        """The engine's process; None for a server that is not ours."""
        ...

    async def start(self) -> None:
        """Start the engine and wait until it responds. Raises `EngineUnavailable` with its last output."""
        ...

    async def restart(self) -> None:
        """Replace the engine by a new one, whatever state it is in."""
        ...

    async def stop(self) -> None: ...

    def is_alive(self) -> bool: ...


class HostWrapper:
    """Base of the hosts that add something to another one, to which they pass on everything else."""

    _host: EngineHost

    @property
    def engine(self) -> ComfyEngine:
        return self._host.engine

    @property
    def url(self) -> str:
        return self._host.url

    @property
    def log(self) -> EngineLog:
        return self._host.log

    @property
    def paths(self) -> HostPaths:
        return self._host.paths

    @property
    def attention(self) -> AttentionChoice:
        return self._host.attention

    @property
    def isolation(self) -> Isolation:
        return self._host.isolation

    @property
    def pid(self) -> int | None:
        return self._host.pid

    def is_alive(self) -> bool:
        return self._host.is_alive()

    async def stop(self) -> None:
        await self._host.stop()


class RunningEngine:
    """A running ComfyUI that is not ours. Its folders are shared, so they are never wiped."""

    def __init__(self, url: str) -> None:
        self.log = EngineLog(LOG_LINES)
        self.paths = HostPaths()
        self.attention = NOT_OURS
        self.start_phases: dict[str, float] = {}
        self.isolation = Isolation(reason="the engine is not ours to isolate")
        self._engine = HttpEngine(url)

    @property
    def engine(self) -> HttpEngine:
        return self._engine

    @property
    def url(self) -> str:
        return self._engine.url

    @property
    def pid(self) -> int | None:
        return None

    def is_alive(self) -> bool:
        return True

    async def start(self) -> None:
        await self._engine.command_line()

    async def restart(self) -> None:
        """Free its models and caches and check that it responds, since the process is not ours to restart."""
        await self._engine.free()
        await self._engine.command_line()

    async def stop(self) -> None:
        await self._engine.close()


@contextlib.contextmanager
def timed(phases: MutableMapping[str, float], name: str) -> Iterator[None]:
    """Add the seconds of the block to a phase of a start; a repeated phase is summed."""
    began = time.monotonic()
    try:
        yield
    finally:
        phases[name] = round(phases.get(name, 0.0) + time.monotonic() - began, 3)

"""The log of one attempt: what the engine says while the job runs, kept in the bucket at intervals.

At intervals, so that a job whose worker is killed still has one; short ones at first, since what kills a worker most
often does so soon.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from storage.errors import StorageError
from storage.intake.host_paths import HostPaths
from storage.jobs.logs import LogStore
from storage.jobs.record import JobRecord

logger = logging.getLogger(__name__)

FIRST_INTERVAL_S = 2.0
"""Doubled after each write, up to the interval that was asked for."""
LAST_WRITE_S = 3.0


class LogSource(Protocol):
    """Lines as an engine says them."""

    @property
    def position(self) -> int:
        """How many lines there were so far."""
        ...

    def since(self, position: int) -> Sequence[str]:
        """The lines after that position, as far as they are still kept."""
        ...


class JobLog:
    """`paths` hides those of this machine, which an engine's tracebacks are full of."""

    def __init__(
        self, logs: LogStore, record: JobRecord, source: LogSource, paths: HostPaths, *, interval_s: float
    ) -> None:
        self._logs = logs
        self._record = record
        self._source = source
        self._paths = paths
        self._interval_s = interval_s
        self._start = self._written = source.position
        self._tasks: list[asyncio.Task[None]] = []
        self._writing = asyncio.Lock()
        self._ending = asyncio.Event()

    def start(self) -> None:
        """Write at intervals from now on."""
        self._tasks.append(asyncio.create_task(self._keep()))

    def catch_up(self) -> None:
        """Begin to write what was said by now, while the outputs travel: if that was all, `finish` need not wait."""
        self._tasks.append(asyncio.create_task(self._write()))

    def abandon(self) -> None:
        """Write nothing more."""
        for task in self._tasks:
            task.cancel()

    async def finish(self) -> None:
        """The whole log, once more. Waits for a write that is under way, which would else land behind this one: its
        thread goes on after its task was cancelled."""
        self._ending.set()
        try:
            async with asyncio.timeout(LAST_WRITE_S):
                await asyncio.gather(*self._tasks)
                await self._write()
        except TimeoutError:
            logger.warning("the log of job %s could not be written in time", self._record.job_id)

    async def _keep(self) -> None:
        interval_s = min(FIRST_INTERVAL_S, self._interval_s)
        while not await self._ends_within(interval_s):
            await self._write()
            interval_s = min(2 * interval_s, self._interval_s)

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._ending.wait()
        except TimeoutError:
            return False

    async def _write(self) -> None:
        """Nothing if nothing was said since. A log that cannot be written is no reason to lose the job."""
        async with self._writing:
            position, record = self._source.position, self._record
            if position == self._written:
                return
            try:
                lines = [self._paths.hidden(line) for line in self._source.since(self._start)]
                await self._logs.write(record.tenant, record.job_id, record.attempt, lines)
            except StorageError as error:
                logger.warning("the log of job %s could not be written: %s", record.job_id, error)
            else:
                self._written = position

"""The log of one attempt: the engine's output while the job runs, written to the bucket at intervals.

A job whose worker is killed therefore still has a log.
"""

import asyncio
import logging

from storage.errors import StorageError
from storage.intake.host_paths import HostPaths
from storage.jobs.logs import LogStore
from storage.jobs.record import JobRecord
from workers.comfy.host import EngineLog, LogSection

logger = logging.getLogger(__name__)

FIRST_INTERVAL_S = 2.0
"""The first interval in seconds, doubled after each write up to the configured one."""
LAST_WRITE_S = 3.0


class JobLog:
    """`paths` hides the paths of this machine, which an engine's tracebacks contain."""

    def __init__(
        self, logs: LogStore, record: JobRecord, source: EngineLog, paths: HostPaths, *, interval_s: float
    ) -> None:
        self._logs = logs
        self._record = record
        self._source = source
        self._paths = paths
        self._interval_s = interval_s
        self._section: LogSection | None = None  # until `start`
        self._written = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._writing = asyncio.Lock()
        self._ending = asyncio.Event()

    def start(self) -> None:
        """Begin with the engine's next line, and write at intervals."""
        self._section = self._source.open_section()
        self._written = self._section.position
        self._tasks.append(asyncio.create_task(self._keep()))

    def catch_up(self) -> None:
        """Start a write while the outputs are uploaded, so that `finish` need not wait if no line follows."""
        self._tasks.append(asyncio.create_task(self._write()))

    def abandon(self) -> None:
        """Stop writing."""
        for task in self._tasks:
            task.cancel()

    async def finish(self) -> None:
        """Write the whole log a last time."""
        self._ending.set()
        try:
            async with asyncio.timeout(LAST_WRITE_S):
                # A write in flight is awaited: its thread continues after a cancellation and could overwrite this one.
                await asyncio.gather(*self._tasks)
                await self._write()
        except TimeoutError:
            logger.warning("the log of job %s could not be written in time", self._record.job_id)

    async def _keep(self) -> None:
        interval_s = min(FIRST_INTERVAL_S, self._interval_s)  # short, since most workers that die do so soon
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
        """Write the log if there are new lines. A failure is logged."""
        # One write at a time: an older one that is slow could otherwise replace a newer one.
        async with self._writing:
            section, record = self._section, self._record
            if section is None or section.position == self._written:
                return
            position = section.position
            try:
                lines = [self._paths.hidden(line) for line in section.lines()]
                await self._logs.write(record.tenant, record.job_id, record.attempt, lines)
            except StorageError as error:  # a job is not lost for the want of its log
                logger.warning("the log of job %s could not be written: %s", record.job_id, error)
            else:
                self._written = position

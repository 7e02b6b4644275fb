"""`LiveWatch`: marks the jobs that streams of this process watch, and reads their previews, once for all streams."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from app.watch import Poll
from storage.bucket.budget import background, on_behalf_of
from storage.clock import Clock
from storage.errors import StorageError
from storage.jobs.live import LiveBoard, PreviewFrame
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import JobStore, StoredJob
from storage.signal import Signal, live_topic

logger = logging.getLogger(__name__)

READ_S = 1.0
"""Seconds between two reads of a preview without a signal."""
SHORTEST_S = 0.2
"""Seconds between two reads, however often the signal rings."""
WATCHED = timedelta(seconds=45)
"""How long a job stays marked as watched. After it the worker writes no more previews."""
RENEWED = timedelta(seconds=25)
"""The rest of that time at which it is extended."""


Frame = tuple[int, PreviewFrame] | None
"""An attempt and a preview of it."""


class LiveJob:
    """The newest preview of one job, for all of its streams."""

    def __init__(self, jobs: JobStore, board: LiveBoard, signal: Signal, clock: Clock, poll: Poll[StoredJob]) -> None:
        self.streams = 0
        self.frame: Frame = None
        """The attempt and its newest preview."""
        self._jobs, self._board, self._signal, self._clock = jobs, board, signal, clock
        self._poll = poll
        self._task = background(self._run())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        record = self._poll.latest.record
        with self._signal.listen(live_topic(record.tenant, record.job_id)) as bell:
            while not (record := self._poll.latest.record).status.is_terminal:
                if record.status is Status.RUNNING:
                    try:
                        await self._look(record)
                    except StorageError as error:  # previews may be lost
                        logger.info("the preview of job %s could not be read: %s", record.job_id, error)
                await asyncio.sleep(SHORTEST_S)
                await bell.wait(READ_S - SHORTEST_S)

    async def _look(self, record: JobRecord) -> None:
        now = self._clock.now()
        if record.watched_until is None or record.watched_until - now < RENEWED:
            stored = await self._jobs.evolve_from(self._poll.latest, lambda job: job.watch(now + WATCHED))
            self._poll.offer(stored)
        frame = await self._board.latest(record.tenant, record.job_id, record.attempt)
        if frame is not None and self.frame != (record.attempt, frame):
            self.frame = (record.attempt, frame)
            self._poll.wake()


class LiveWatch:
    """The watched jobs of this process."""

    def __init__(self, jobs: JobStore, board: LiveBoard, signal: Signal, clock: Clock) -> None:
        self._jobs, self._board, self._signal, self._clock = jobs, board, signal, clock
        self._watched: dict[tuple[str, str], LiveJob] = {}

    @asynccontextmanager
    async def joined(self, poll: Poll[StoredJob]) -> AsyncIterator[LiveJob]:
        """Watch the job of a poll while the context is open."""
        record = poll.latest.record
        key = (record.tenant, record.job_id)
        live = self._watched.get(key)
        if live is None:
            with on_behalf_of(record.tenant):
                live = self._watched[key] = LiveJob(self._jobs, self._board, self._signal, self._clock, poll)
        live.streams += 1
        try:
            yield live
        finally:
            live.streams -= 1
            if live.streams == 0:
                del self._watched[key]
                await live.stop()

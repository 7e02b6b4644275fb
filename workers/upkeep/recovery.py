"""Running jobs whose worker was lost: back to the queue, or failed, but never left running.

Looks at running jobs alone: one LIST and one GET each, however many jobs have finished.
"""

import logging

from storage.bucket.objects import ObjectStore, all_keys
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import JobNotFound, PreconditionFailed, StorageError
from storage.hint_keys import RUNNING, RunningEntry
from storage.jobs.logs import LogStore
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import JobStore, StoredJob

logger = logging.getLogger(__name__)

LAST_LINES = 20
"""Of a lost worker's log, that are told with `worker_lost`."""


class Recovery:
    """`max_attempts`: how often a job may lose its worker before it fails with `worker_lost`."""

    def __init__(
        self, jobs: JobStore, logs: LogStore, objects: ObjectStore, clock: Clock, *, max_attempts: int
    ) -> None:
        self._jobs = jobs
        self._logs = logs
        self._objects = objects
        self._clock = clock
        self._max_attempts = max_attempts

    async def sweep(self) -> list[str]:
        """What was done: "requeued", "failed" or "dropped", one a hint."""
        done: list[str] = []
        async for keys in all_keys(self._objects, RUNNING):
            done += [what for what in await map_bounded(keys, self._look) if what is not None]
        return done

    async def _look(self, key: str) -> str | None:
        """One that the bucket fails at is left to the next sweep, and keeps no other waiting."""
        try:
            stored = await self._running(key)
            if stored is not None:
                return await self._recover(stored)
            await self._objects.delete(key)
        except StorageError as error:
            logger.warning("%s could not be looked after this time: %s", key, error)
            return None
        return "dropped"

    async def _running(self, key: str) -> StoredJob | None:
        """The job that a hint names; None if the hint can never come true."""
        try:
            entry = RunningEntry.parse(key)
        except ValueError:
            return None
        try:
            stored = await self._jobs.read(entry.tenant, entry.job_id)
        except JobNotFound:
            return None  # a claim is of a job that exists, so no one is about to need it
        return None if stored.record.outdates(Status.RUNNING, entry.attempt) else stored

    async def _recover(self, stored: StoredJob) -> str | None:
        """Whoever loses the race for the write leaves the job to the winner, or to the next sweep."""
        before = stored.record
        if not before.has_lost_its_worker(self._clock.now()):
            return None
        try:
            after = before.expire(
                now=self._clock.now(), max_attempts=self._max_attempts, log_tail=await self._last_lines(before)
            )
            await self._jobs.advance(stored, after)
        except PreconditionFailed:
            return None
        return "failed" if after.status is Status.FAILED else "requeued"

    async def _last_lines(self, record: JobRecord) -> tuple[str, ...] | None:
        return await self._logs.tail(record.tenant, record.job_id, record.attempt, LAST_LINES)

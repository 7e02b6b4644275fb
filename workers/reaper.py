"""Recovery: a running job whose worker was lost goes back to the queue, or fails, but never stays running.

A sweep is idempotent, and any number may overlap: what it does is decided by the record and committed by CAS. It
looks at running jobs alone, one LIST and one GET each, however many jobs have finished.
"""

import logging
from collections import Counter

from storage import keys
from storage.clock import Clock
from storage.errors import JobNotFound, PreconditionFailed, StorageUnavailable
from storage.jobs import JobStore, StoredJob
from storage.keys import RunningEntry
from storage.launcher import Launcher
from storage.objects import ObjectStore
from storage.record import Status
from storage.together import together

logger = logging.getLogger(__name__)

PAGE = 1000
AT_ONCE = 16
"""Jobs that are looked at side by side: the store's own pool is not larger."""


class Reaper:
    """`max_attempts`: how often a job may lose its worker before it fails with `worker_lost`."""

    def __init__(
        self, jobs: JobStore, objects: ObjectStore, launcher: Launcher, clock: Clock, *, max_attempts: int
    ) -> None:
        self._jobs = jobs
        self._objects = objects
        self._launcher = launcher
        self._clock = clock
        self._max_attempts = max_attempts

    async def sweep(self) -> Counter[str]:
        """Look at every running job once; counts what was done by "requeued", "failed" and "dropped"."""
        done: Counter[str] = Counter()
        after = ""
        while True:
            page = await self._objects.list(keys.RUNNING, after=after, limit=PAGE)
            for start in range(0, len(page.keys), AT_ONCE):
                done.update(await together(*(self._look(key) for key in page.keys[start : start + AT_ONCE])))
            if not page.more:
                break
            after = page.keys[-1]
        del done[""]
        if done:
            logger.warning("recovered", extra=dict(done))
        return done

    async def _look(self, key: str) -> str:
        try:
            entry = keys.parse_running_key(key)
            stored = await self._jobs.read(entry.tenant, entry.job_id)
        except (ValueError, JobNotFound):
            await self._objects.delete(key)  # a claim is of a job that exists, so no one is about to need it
            return "dropped"
        if _is_over(entry, stored):
            await self._objects.delete(key)
            return "dropped"
        return await self._recover(stored)

    async def _recover(self, stored: StoredJob) -> str:
        """Whoever loses the race for the write leaves the job to the winner, or to the next sweep."""
        before = stored.record
        after = before.expire(now=self._clock.now(), max_attempts=self._max_attempts)
        if after is before:
            return ""
        try:
            recovered = await self._jobs.advance(stored, after)
        except PreconditionFailed:
            return ""
        except StorageUnavailable as error:
            logger.warning("job %s could not be recovered this time: %s", before.job_id, error)
            return ""
        if after.status is Status.FAILED:
            return "failed"
        await self._spawn(recovered)
        return "requeued"

    async def _spawn(self, stored: StoredJob) -> None:
        try:
            await self._launcher.spawn(stored.record.pool)
        except Exception:  # the queue is the truth: whoever looks at it next runs the job
            logger.exception("no worker could be started", extra={"job_id": stored.record.job_id})


def _is_over(entry: RunningEntry, stored: StoredJob) -> bool:
    """Whether this hint's attempt has ended. A queued job of one attempt less may be about to be claimed with it."""
    record = stored.record
    if record.status.is_terminal or record.attempt > entry.attempt:
        return True
    return record.status is Status.QUEUED and record.attempt == entry.attempt

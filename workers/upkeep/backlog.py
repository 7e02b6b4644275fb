"""Queued jobs that no worker is coming for: their ticket was lost, or their worker died before it claimed anything.

The launcher tells how many tickets still wait. Where more jobs wait than tickets, and have waited for a while, the
difference is spawned again. One that has waited for days is given up. A look costs one LIST, one more for each pool in
which jobs wait, and a GET for each of the first few that have waited long.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.errors import JobNotFound, PreconditionFailed, RecordUnreadable
from storage.hint_keys import QUEUE, QueueEntry
from storage.jobs.record import LONGEST_WAIT, JobRecord, Status
from storage.jobs.store import YOUNG_HINT, JobStore, StoredJob
from storage.launcher import Launcher
from storage.together import for_each

logger = logging.getLogger(__name__)

LOOKED_AT = 100
"""Jobs of one sweep: as many tickets are spawned at most."""

NO_POOL = ""
AFTER_ALL = "~"
"""Behind every hint of a pool, which begin with digits."""

PATIENCE = timedelta(seconds=30)
"""For a ticket that was spawned a moment ago and is not counted yet."""


class Backlog:
    """`lease` is that of running jobs.

    The grace period is at most half of it, so a job that was requeued after losing its worker is always old enough to
    be looked at.
    """

    def __init__(
        self, jobs: JobStore, objects: ObjectStore, launcher: Launcher, clock: Clock, *, lease: timedelta
    ) -> None:
        self._jobs = jobs
        self._objects = objects
        self._launcher = launcher
        self._clock = clock
        self._patience = min(PATIENCE, lease / 2)

    async def sweep(self) -> list[str]:
        """What was done: "spawned" or "dropped", one a ticket or hint."""
        done: list[str] = []
        async for found in self._pools():
            looks = await for_each(self._long_waiting(found), self._look)
            waiting = Counter(pool for pool in looks if pool)
            done += ["dropped"] * looks.count(None)
            for pool, jobs in sorted(waiting.items()):
                done += await self._spawn(pool, jobs)
        return done

    async def _pools(self) -> AsyncIterator[tuple[str, ...]]:
        """The first hints of each pool in turn, so that a long queue hides no other. One LIST a pool, and one more."""
        page = await self._objects.list(QUEUE)
        while page.keys:
            folder = page.keys[0].rpartition("/")[0] + "/"
            yield tuple(key for key in page.keys if key.startswith(folder))
            page = await self._objects.list(QUEUE, after=folder + AFTER_ALL)

    def _long_waiting(self, found: Sequence[str]) -> list[str]:
        """Hints that name no job are looked at as well, and dropped then."""
        now = self._clock.now()
        entries = [(key, _parsed(key)) for key in found]
        long = [key for key, entry in entries if entry is None or now - entry.created_at > self._patience]
        too_long = [key for key, entry in entries if entry is not None and now - entry.created_at > LONGEST_WAIT]
        return list(dict.fromkeys((*long[:LOOKED_AT], *too_long[:LOOKED_AT])))

    async def _look(self, key: str) -> str | None:
        """The pool in which the job waits, `NO_POOL` if that cannot be told; None if the hint was stale, and is
        dropped."""
        if (entry := _parsed(key)) is not None:
            try:
                record = await self._unless_given_up(await self._jobs.read(entry.tenant, entry.job_id))
            except PreconditionFailed:
                return entry.pool
            except JobNotFound:
                if self._clock.now() - entry.created_at <= YOUNG_HINT:
                    return entry.pool
            except RecordUnreadable as error:
                logger.warning("no worker is asked for: %s", error)
                return NO_POOL
            else:
                if not record.outdates(Status.QUEUED, entry.attempt):
                    return entry.pool
        await self._objects.delete(key)
        return None

    async def _unless_given_up(self, stored: StoredJob) -> JobRecord:
        """The record as it is afterwards. `PreconditionFailed` if a worker takes the job at this very moment."""
        given_up = stored.record.give_up_waiting(now=self._clock.now())
        return stored.record if given_up is stored.record else (await self._jobs.advance(stored, given_up)).record

    async def _spawn(self, pool: str, jobs: int) -> list[str]:
        try:
            coming = await self._launcher.waiting(pool)
            if coming is None:
                return []
            missing = max(0, jobs - coming)
            for _ in range(missing):
                await self._launcher.spawn(pool)
        except Exception:  # the queue is the truth: the next sweep counts again
            logger.exception("no worker could be started", extra={"pool": pool})
            return []
        return ["spawned"] * missing


def _parsed(key: str) -> QueueEntry | None:
    try:
        return QueueEntry.parse(key)
    except ValueError:
        return None

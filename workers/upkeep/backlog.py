"""Queued jobs that no worker is coming for: their ticket was lost, or their worker died before it claimed anything.

The launcher counts the tickets that still wait. Where more jobs wait than tickets, and have waited for a while, the
difference is spawned again. A sweep costs one LIST, one more for each pool in which jobs wait, and a GET for each of
the first few that have waited long and one for how the pool's engine started.

Where the engine of a pool failed to start once too often, the jobs that waited meanwhile fail, unless a worker of that
pool is at work all the same. No worker is asked for until the pause is over, and then a single one.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import partial

from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import JobNotFound, PreconditionFailed, RecordUnreadable
from storage.index_keys import QUEUE, QueueEntry
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import YOUNG, JobStore, StoredJob
from storage.launcher import Launcher
from storage.pools.engine_starts import WELL, EngineStartStore, StartState
from storage.timers import Timer, lane_prefix

logger = logging.getLogger(__name__)

LOOKED_AT = 100
"""Jobs of one sweep: as many tickets are spawned at most."""

WAITS, FAILED, DROPPED, UNREADABLE = "waits", "failed", "dropped", "unreadable"
"""What a look at a hint has found, or done."""
AFTER_ALL = "~"
"""Behind every hint of a pool, which begin with digits."""

FIRST_TIMERS = 100
"""Read to find a running job of a pool whose engine failed to start."""

PATIENCE = timedelta(seconds=30)
"""For a ticket that was spawned a moment ago and is not counted yet."""


class Backlog:
    """`lease` is that of running jobs.

    The grace period is at most half of it, so a job that was requeued after losing its worker is always old enough to
    be looked at.
    """

    def __init__(
        self,
        jobs: JobStore,
        objects: ObjectStore,
        starts: EngineStartStore,
        launcher: Launcher,
        clock: Clock,
        *,
        lease: timedelta,
    ) -> None:
        self._jobs = jobs
        self._objects = objects
        self._starts = starts
        self._launcher = launcher
        self._clock = clock
        self._patience = min(PATIENCE, lease / 2)

    async def sweep(self) -> list[str]:
        """What was done: "spawned" or "dropped", one a ticket or hint."""
        done: list[str] = []
        async for found in self._pools():
            long = self._long_waiting(found)
            pool = next((entry.pool for entry in map(_parsed, long) if entry is not None), None)
            starts = WELL if pool is None else await self._starts.state(pool)
            is_broken = pool is not None and starts.is_exhausted and not await self._is_served(pool)
            looks = await map_bounded(long, partial(self._look, broken=starts if is_broken else None))
            done += [what for what in looks if what in (DROPPED, FAILED)]
            if pool is not None:
                done += await self._spawn(pool, looks.count(WAITS), starts)
        return done

    async def _is_served(self, pool: str) -> bool:
        """Whether a worker of the pool runs a job: its engine did start. Leases have the earliest timers."""
        page = await self._objects.list(lane_prefix("active"), limit=FIRST_TIMERS)
        return any(await map_bounded(page.keys, partial(self._runs_in, pool)))

    async def _runs_in(self, pool: str, key: str) -> bool:
        try:
            timer = Timer.parse(key)
            if timer.kind != "job":
                return False
            record = (await self._jobs.read(timer.tenant, timer.id)).record
        except (ValueError, JobNotFound, RecordUnreadable):
            return False
        return record.status is Status.RUNNING and record.pool == pool

    async def _pools(self) -> AsyncIterator[tuple[str, ...]]:
        """The first hints of each pool in turn, so that a long queue hides no other. One LIST a pool, and one more."""
        page = await self._objects.list(QUEUE)
        while page.keys:
            folder = page.keys[0].rpartition("/")[0] + "/"
            yield tuple(key for key in page.keys if key.startswith(folder))
            page = await self._objects.list(QUEUE, after=folder + AFTER_ALL)

    def _long_waiting(self, found: Sequence[str]) -> list[str]:
        """With those that name no job, which are deleted."""
        now = self._clock.now()
        entries = [(key, _parsed(key)) for key in found]
        long = [key for key, entry in entries if entry is None or now - entry.created_at > self._patience]
        return long[:LOOKED_AT]

    async def _look(self, key: str, broken: StartState | None) -> str:
        """One of the words below."""
        if (entry := _parsed(key)) is not None:
            try:
                stored = await self._jobs.read(entry.tenant, entry.job_id)
                record = await self._unless_given_up(stored, broken)
            except PreconditionFailed:
                return WAITS
            except JobNotFound:
                if self._clock.now() - entry.created_at <= YOUNG:
                    return WAITS
            except RecordUnreadable as error:
                logger.warning("no worker is asked for: %s", error)
                return UNREADABLE
            else:
                if record.status.is_terminal and not stored.record.status.is_terminal:
                    return FAILED
                if not record.outdates(Status.QUEUED, entry.attempt):
                    return WAITS
        await self._objects.delete(key)
        return DROPPED

    async def _unless_given_up(self, stored: StoredJob, broken: StartState | None) -> JobRecord:
        """The record as it is afterwards. `PreconditionFailed` if a worker takes the job at this very moment."""
        now = self._clock.now()
        given_up = stored.record
        if broken is not None and broken.last is not None:
            given_up = given_up.without_engine(
                now=now, failed_at=broken.last.at, message=broken.message, log_tail=broken.last.log_tail
            )
        return stored.record if given_up is stored.record else (await self._jobs.advance(stored, given_up)).record

    async def _spawn(self, pool: str, jobs: int, starts: StartState) -> list[str]:
        if jobs == 0 or starts.paused_until is not None:
            return []
        try:
            coming = await self._launcher.waiting(pool)
            if coming is None:
                return []
            missing = max(0, (1 if starts.is_exhausted else jobs) - coming)
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

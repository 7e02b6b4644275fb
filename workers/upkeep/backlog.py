"""Requests workers for queued jobs whose ticket was lost, or whose worker died before its claim.

The launcher counts the tickets that are not taken yet. If more jobs than tickets have waited for a while, the sweep
spawns the difference, up to the containers that the pool may have (`storage.tickets`). A sweep costs one LIST, one more
for each pool with queued jobs, a GET for each of the first jobs that have waited long, and one for the state of the
pool's engine starts.

If the engine of a pool failed to start too often, the jobs queued meanwhile fail, unless a worker of that pool runs a
job. No worker is requested until the pause is over, and then only one.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import partial

from storage.concurrency import map_bounded
from storage.errors import JobNotFound, PreconditionFailed, RecordUnreadable
from storage.index_keys import QUEUE, QueueEntry
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import StoredJob
from storage.jobs.timers import YOUNG
from storage.pools.engine_starts import WELL, StartState
from storage.stores import Stores
from storage.tickets import Tickets
from storage.timers import Timer, lane_prefix

logger = logging.getLogger(__name__)

MAX_CHECKED = 100
"""Maximum jobs checked, and tickets spawned, per pool and sweep."""

WAITS, FAILED, DROPPED, UNREADABLE = "waits", "failed", "dropped", "unreadable"
"""Results of the check of one queue key."""
AFTER_ALL = "~"
"""Sorts after every queue key of a pool, since these begin with digits."""

FIRST_TIMERS = 100
"""Timers read to find a running job of a pool whose engine failed to start."""

PATIENCE = timedelta(seconds=30)
"""Grace period for a new ticket that the launcher does not count yet."""


class Backlog:
    """`lease` is the lease of running jobs."""

    def __init__(self, stores: Stores, tickets: Tickets, *, lease: timedelta) -> None:
        self._stores = stores
        self._tickets = tickets
        # At most half of the lease, so that a job requeued after its worker's loss is always old enough to be checked.
        self._patience = min(PATIENCE, lease / 2)

    async def sweep(self) -> list[str]:
        """Return the actions taken, one per ticket or queue key."""
        done: list[str] = []
        async for found in self._pools():
            long = self._long_waiting(found)
            pool = next((entry.pool for entry in map(_parsed, long) if entry is not None), None)
            starts = WELL if pool is None else await self._stores.engine_starts.state(pool)
            is_broken = pool is not None and starts.is_exhausted and not await self._is_served(pool)
            results = await map_bounded(long, partial(self._check, broken=starts if is_broken else None))
            done += [what for what in results if what in (DROPPED, FAILED)]
            if pool is not None:
                done += await self._spawn(pool, results.count(WAITS), starts)
        return done

    async def _is_served(self, pool: str) -> bool:
        """Whether a worker of the pool runs a job, so that its engine did start."""
        # Timers are ordered by time and leases end soonest, so running jobs are on the first page.
        page = await self._stores.objects.list(lane_prefix("active"), limit=FIRST_TIMERS)
        return any(await map_bounded(page.keys, partial(self._runs_in, pool)))

    async def _runs_in(self, pool: str, key: str) -> bool:
        try:
            timer = Timer.parse(key)
            if timer.kind != "job":
                return False
            record = (await self._stores.jobs.read(timer.tenant, timer.id)).record
        except (ValueError, JobNotFound, RecordUnreadable):
            return False
        return record.status is Status.RUNNING and record.pool == pool

    async def _pools(self) -> AsyncIterator[tuple[str, ...]]:
        """Yield the first queue keys of each pool, for one LIST per pool."""
        page = await self._stores.objects.list(QUEUE)
        while page.keys:
            folder = page.keys[0].rpartition("/")[0] + "/"
            yield tuple(key for key in page.keys if key.startswith(folder))
            # After the whole pool, so that a long queue does not hide the others.
            page = await self._stores.objects.list(QUEUE, after=folder + AFTER_ALL)

    def _long_waiting(self, found: Sequence[str]) -> list[str]:
        """Return the queue keys that have waited long, and those that cannot be parsed, which the check deletes."""
        now = self._stores.clock.now()
        entries = [(key, _parsed(key)) for key in found]
        long = [key for key, entry in entries if entry is None or now - entry.created_at > self._patience]
        return long[:MAX_CHECKED]

    async def _check(self, key: str, broken: StartState | None) -> str:
        """Check one queue key and delete it if it is stale; return one of the results above."""
        if (entry := _parsed(key)) is not None:
            try:
                stored = await self._stores.jobs.read(entry.tenant, entry.job_id)
                record = await self._unless_given_up(stored, broken)
            except PreconditionFailed:  # a worker claims the job; the next sweep decides again
                return WAITS
            except JobNotFound as missing:
                is_young = self._stores.clock.now() - entry.created_at <= YOUNG  # the key may precede the commit
                # Without its key, a job would wait for its timer, which is due a day after its creation or later.
                if is_young or not await self._stores.jobs.is_missing(entry.tenant, entry.job_id, missing):
                    return WAITS
            except RecordUnreadable as error:
                logger.warning("no worker is asked for: %s", error)
                return UNREADABLE
            else:
                if record.status.is_terminal and not stored.record.status.is_terminal:
                    return FAILED
                if not record.outdates(Status.QUEUED, entry.attempt):
                    return WAITS
        await self._stores.objects.delete(key)
        return DROPPED

    async def _unless_given_up(self, stored: StoredJob, broken: StartState | None) -> JobRecord:
        """Fail the job if its pool's engine cannot start, and return the record.

        Raises `PreconditionFailed` if a worker claims the job at the same time.
        """
        now = self._stores.clock.now()
        given_up = stored.record
        if broken is not None and broken.last is not None:
            given_up = given_up.without_engine(
                now=now, failed_at=broken.last.at, message=broken.message, log_tail=broken.last.log_tail
            )
        return (
            stored.record if given_up is stored.record else (await self._stores.jobs.advance(stored, given_up)).record
        )

    async def _spawn(self, pool: str, jobs: int, starts: StartState) -> list[str]:
        if jobs == 0 or starts.paused_until is not None:
            return []
        try:
            # After exhausted starts a single worker tests whether the engine starts again.
            spawned = await self._tickets.replace_lost(pool, 1 if starts.is_exhausted else jobs)
        except Exception:  # the next sweep counts the queue again
            logger.exception("no worker could be started", extra={"pool": pool})
            return []
        return ["spawned"] * spawned


def _parsed(key: str) -> QueueEntry | None:
    try:
        return QueueEntry.parse(key)
    except ValueError:
        return None

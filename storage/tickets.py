"""Tickets: requests for workers of a pool, kept in proportion to its queued jobs.

The container that takes a ticket runs jobs until its pool's queue is empty, so tickets do not belong to jobs:

- A new job requests a ticket, unless as many wait already as the pool may have containers.
- Tickets that outnumber the queued jobs are withdrawn, so that no container is started for them.

A job is queued before a ticket is requested for it, and the queue is counted again after tickets were withdrawn. So a
job has no ticket only if the launcher fails or counts late, or because running containers will take it.

The key of a ticket is only needed to withdraw it: one that is lost costs a container that finds nothing. A stale one is
deleted when tickets are withdrawn.
"""

import logging
from collections.abc import Collection, Sequence

from storage import keys
from storage.bucket.objects import ObjectStore, all_keys
from storage.concurrency import map_bounded
from storage.index_keys import QueueEntry, queue_prefix
from storage.launcher import Launcher

logger = logging.getLogger(__name__)

MOST_COUNTED = 1000
"""Queued jobs that are counted, one page of a LIST. More tickets than that are not withdrawn."""


class Tickets:
    """Its methods may raise whatever the launcher raises, except for `try_to_trim`."""

    def __init__(self, launcher: Launcher, objects: ObjectStore) -> None:
        self._launcher = launcher
        self._objects = objects

    async def request(self, pool: str, jobs: int = 1) -> int:
        """Request workers for so many jobs that have just been queued. Return the number of tickets spawned."""
        waiting = await self._launcher.waiting(pool)
        return 0 if waiting is None else await self._spawn(pool, jobs, waiting)

    async def replace_lost(self, pool: str, jobs: int) -> int:
        """Spawn the tickets that are missing for so many queued jobs, and return their number."""
        waiting = await self._launcher.waiting(pool)
        return 0 if waiting is None else await self._spawn(pool, jobs - waiting, waiting)

    async def refill(self, pool: str) -> int:
        """Spawn the tickets that are missing for the pool's queue, and return their number."""
        return await self.replace_lost(pool, await self._queued(pool))

    async def trim(self, pool: str, ended: Collection[str] = ()) -> int:
        """Withdraw the tickets that outnumber the queued jobs, and return their number.

        `ended` are ids of jobs whose queue keys may not be deleted yet.
        """
        waiting = await self._launcher.waiting(pool)
        if not waiting:
            return 0
        surplus = waiting - await self._queued(pool, ended)
        if surplus <= 0:
            return 0
        withdrawn = await self._withdraw(pool, surplus, waiting)
        # A job that was queued meanwhile has requested no ticket if those that are withdrawn now still waited.
        left = waiting - withdrawn
        await self._spawn(pool, await self._queued(pool, ended) - left, left)
        return withdrawn

    async def try_to_trim(self, pool: str, ended: Collection[str] = ()) -> None:
        """Trim; a failure is only logged, since a surplus ticket costs little."""
        try:
            await self.trim(pool, ended)
        except Exception as error:  # the launcher's client raises many types
            logger.warning("surplus tickets of pool %s stay: %s", pool, error)

    async def ended(self, pool: str, ticket: str) -> None:
        """Delete the key of a ticket whose container has ended it."""
        await self._objects.delete(keys.ticket(pool, ticket))

    async def _spawn(self, pool: str, wanted: int, waiting: int) -> int:
        if wanted <= 0:
            return 0
        most = await self._launcher.most_containers(pool)
        # More waiting tickets start no further container, and would have to be withdrawn one by one.
        missing = wanted if most is None else min(wanted, most - waiting)
        spawned = await map_bounded(range(missing), lambda _: self._spawn_one(pool))
        return sum(spawned)

    async def _spawn_one(self, pool: str) -> bool:
        ticket = await self._launcher.spawn(pool)
        if ticket is not None:
            await self._objects.put(keys.ticket(pool, ticket), b"")
        return ticket is not None

    async def _queued(self, pool: str, ended: Collection[str] = ()) -> int:
        """Count the queued jobs, up to `MOST_COUNTED`. Stale keys count: too many tickets are better than too few."""
        page = await self._objects.list(queue_prefix(pool), limit=MOST_COUNTED)
        return sum(_job_of(key) not in ended for key in page.keys)

    async def _withdraw(self, pool: str, surplus: int, waiting: int) -> int:
        known = [key async for page in all_keys(self._objects, keys.tickets(pool)) for key in page]
        # Tickets are taken oldest first, so that all but the newest ones have been taken.
        stale, kept = _split(known, waiting)
        kept, withdrawn = _split(kept, surplus)
        await map_bounded(withdrawn, lambda key: self._launcher.cancel(key.rpartition("/")[2]))
        if stale or withdrawn:
            await self._objects.delete(*stale, *withdrawn)
        return len(withdrawn)


def _split(found: Sequence[str], last: int) -> tuple[list[str], list[str]]:
    """Return all but the last ones, and the last ones."""
    at = max(0, len(found) - last)
    return list(found[:at]), list(found[at:])


def _job_of(key: str) -> str:
    try:
        return QueueEntry.parse(key).job_id
    except ValueError:
        return ""

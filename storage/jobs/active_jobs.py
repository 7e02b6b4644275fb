"""Counts a tenant's active jobs for quotas by their index keys, without a counter that could drift.

An index key is written before its commit, so only jobs that another process is about to write are missed. A cached
count and a stale index key count jobs that have ended, so the caller counts by the records before it refuses a job
(`verified`).
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from weakref import WeakValueDictionary

from cachetools import TTLCache

from storage.bucket.budget import allow_more, background, on_behalf_of, within_budget
from storage.bucket.objects import ObjectStore
from storage.clock import Clock, expiring_cache
from storage.concurrency import gather, retrieve
from storage.index_keys import ListEntry, list_prefix
from storage.jobs.filters import JobFilter
from storage.jobs.record import Status
from storage.jobs.store import JobStore

COUNT_LIFE = timedelta(seconds=2)
"""Cache lifetime of a count. Jobs that this process accepts meanwhile are added to it."""
RECORDS_PER_S = 500
"""Records of one tenant that counts read per second in this process. A count costs one GET for each active job, and a
client that is at its quota can cause one after the other."""
RECORDS_PAGE = 200

IdsOf = Callable[[str, Status, int], Awaitable[set[str]]]


@dataclass(slots=True)
class ActiveJobs:
    """`active` counts queued and running jobs."""

    queued: int
    active: int

    def add(self, jobs: int) -> None:
        """Add jobs that were just accepted."""
        self.queued += jobs
        self.active += jobs


class ActiveJobStore:
    def __init__(self, jobs: JobStore, objects: ObjectStore, clock: Clock) -> None:
        self._jobs = jobs
        self._objects = objects
        self._counted: TTLCache[str, ActiveJobs] = expiring_cache(clock, COUNT_LIFE)
        self._verifying: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._to_come: dict[str, asyncio.Task[ActiveJobs]] = {}
        """The count by the records of each tenant that has yet to begin."""
        self._pending: dict[str, Counter[str]] = {}
        self._counts_under_way: dict[str, list[set[str]]] = {}

    @contextmanager
    def pending(self, tenant: str, job_ids: Iterable[str]) -> Iterator[None]:
        """Include these jobs in every count of this process while it writes them."""
        ids = Counter(list(job_ids))  # the same request may be in flight twice
        self._pending[tenant] = self._pending.get(tenant, Counter()) + ids
        for seen in self._counts_under_way.get(tenant, ()):
            seen.update(ids)
        try:
            yield
        finally:
            self._pending[tenant] -= ids
            if not self._pending[tenant]:
                del self._pending[tenant]

    async def of(self, tenant: str, *, at_most: int) -> ActiveJobs:
        """Return the tenant's count, to which the caller adds accepted jobs; it stops one page above `at_most`."""
        if (kept := self._counted.get(tenant)) is not None:
            return kept
        load = await self._count(tenant, at_most, self._ids)
        if (kept := self._counted.get(tenant)) is not None:  # counts that ran concurrently share one result
            return kept
        self._counted[tenant] = load
        return load

    async def verified(self, tenant: str, *, at_most: int) -> ActiveJobs:
        """Count by the records, and delete stale index keys. The count begins after this call.

        So it knows of every end that the caller's client has seen. All calls that wait for it share its result.
        """
        task = self._to_come.get(tenant)
        if task is None:
            # A task of its own, because it outlives the request that began it when that client disconnects.
            task = self._to_come[tenant] = background(self._verify(tenant, at_most))
            task.add_done_callback(retrieve)
        allow_more(2 * self._reading_s(tenant))
        async with within_budget("the count of active jobs"):
            return await asyncio.shield(task)

    async def _verify(self, tenant: str, at_most: int) -> ActiveJobs:
        lock = self._verifying.setdefault(tenant, asyncio.Lock())
        async with lock:
            await asyncio.sleep(self._reading_s(tenant))
            # From here on the count may see old records, so a request that arrives later waits for the next one.
            del self._to_come[tenant]
            with on_behalf_of(tenant):
                load = await self._count(tenant, at_most, self._rows)
            self._counted[tenant] = load
            return load

    def _reading_s(self, tenant: str) -> float:
        """Return the seconds that a count by the records takes at `RECORDS_PER_S`."""
        known = self._counted.get(tenant)
        return 0.0 if known is None else known.active / RECORDS_PER_S

    async def _count(self, tenant: str, at_most: int, ids_of: IdsOf) -> ActiveJobs:
        """Count the listed jobs and those that this process writes."""
        # Jobs that become pending during the LISTs are added too: their index keys may be written after the LIST.
        pending = set(self._pending.get(tenant, ()))
        under_way = self._counts_under_way.setdefault(tenant, [])
        under_way.append(pending)
        try:
            queued, running = await gather(
                *(ids_of(tenant, status, at_most) for status in (Status.QUEUED, Status.RUNNING))
            )
        finally:
            under_way[:] = [other for other in under_way if other is not pending]
            if not under_way:
                self._counts_under_way.pop(tenant, None)
        return ActiveJobs(len(queued | pending), len(queued | running | pending))

    async def _ids(self, tenant: str, status: Status, at_most: int) -> set[str]:
        prefix, found = list_prefix(tenant, status), set[str]()
        after, more = "", True
        while more and len(found) <= at_most:
            page = await self._objects.list(prefix, after=after)
            found |= _job_ids(page.keys)
            after, more = page.keys[-1] if page.keys else "", page.more
        return found

    async def _rows(self, tenant: str, status: Status, at_most: int) -> set[str]:
        found, cursor = set[str](), None
        while len(found) <= at_most:
            page = await self._jobs.page(
                tenant, lambda record: record.job_id, JobFilter(status=status), limit=RECORDS_PAGE, cursor=cursor
            )
            found, cursor = found | set(page.rows), page.next_cursor
            if cursor is None:
                break
        return found


def _job_ids(found: Sequence[str]) -> set[str]:
    ids = set()
    for key in found:
        try:
            ids.add(ListEntry.parse(key).job_id)
        except ValueError:
            continue
    return ids

"""Counts a tenant's active jobs for quotas by their index keys, without a counter that could drift.

An index key is written before its commit, so only jobs that another process is about to write are missed. A stale index
key counts one job too many, so the caller recounts by the records before it refuses a job (`audited`).
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from cachetools import TTLCache

from storage.bucket.objects import ObjectStore
from storage.clock import Clock, expiring_cache
from storage.concurrency import gather
from storage.index_keys import ListEntry, list_prefix
from storage.jobs.filters import JobFilter
from storage.jobs.record import Status
from storage.jobs.store import JobStore

COUNT_LIFE = timedelta(seconds=2)
"""Cache lifetime of a count. Jobs that this process accepts meanwhile are added to it."""
AUDIT_EVERY = timedelta(seconds=60)
"""Minimum time between two counts by the records, which cost one GET each."""
AUDIT_PAGE = 200

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
        self._audited: TTLCache[str, None] = expiring_cache(clock, AUDIT_EVERY)
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

    async def audited(self, tenant: str, *, at_most: int) -> ActiveJobs | None:
        """Count by the records and delete stale index keys; return None within `AUDIT_EVERY` of the last time."""
        if tenant in self._audited:
            return None
        self._audited[tenant] = None  # before the count, which concurrent requests must not repeat
        load = await self._count(tenant, at_most, self._rows)
        self._counted[tenant] = load
        return load

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
            page = await self._jobs.page(tenant, JobFilter(status=status), limit=AUDIT_PAGE, cursor=cursor)
            found, cursor = found | {record.job_id for record in page.jobs}, page.next_cursor
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

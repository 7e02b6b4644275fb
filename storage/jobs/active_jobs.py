"""How many jobs of a tenant are not over, by the hints of its lists: for quotas, without a counter that could drift.

A hint is written before the commit that needs it, so no job is missed but those that another process is just about to
write. A stale hint counts one job too many, so before refusing, the caller recounts by the records (`audited`).
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from storage._cache import ShortLived
from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.concurrency import gather
from storage.index_keys import ListEntry, list_prefix
from storage.jobs.record import Status
from storage.jobs.store import JobStore

COUNT_LIFE = timedelta(seconds=2)
"""How long a count is believed. What this process accepts meanwhile is added to it."""
AUDIT_EVERY = timedelta(seconds=60)
"""The records cost a GET each: so they are looked at once in this time, and by hints alone in between."""
AUDIT_PAGE = 200

IdsOf = Callable[[str, Status, int], Awaitable[set[str]]]


@dataclass(slots=True)
class ActiveJobs:
    """`active` are queued or running."""

    queued: int
    active: int

    def add(self, jobs: int) -> None:
        """Some were just accepted."""
        self.queued += jobs
        self.active += jobs


class ActiveJobStore:
    def __init__(self, jobs: JobStore, objects: ObjectStore, clock: Clock) -> None:
        self._jobs = jobs
        self._objects = objects
        self._counted: ShortLived[ActiveJobs] = ShortLived(clock, life=COUNT_LIFE)
        self._audited: ShortLived[None] = ShortLived(clock, life=AUDIT_EVERY)
        self._pending: dict[str, Counter[str]] = {}
        self._counts_under_way: dict[str, list[set[str]]] = {}

    @contextmanager
    def pending(self, tenant: str, job_ids: Iterable[str]) -> Iterator[None]:
        """While this process writes these jobs every count of it has them in, whether or not their hints are there."""
        ids = Counter(list(job_ids))  # one request may come twice at once
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
        """The tenant's load, to be changed by who accepts a job. Counted no further than `at_most` and a page."""
        if (kept := self._counted.get(tenant)) is not None:
            return kept[0]
        load = await self._count(tenant, at_most, self._ids)
        if (kept := self._counted.get(tenant)) is not None:  # somebody counted at the same time: share that one
            return kept[0]
        self._counted.put(tenant, load)
        return load

    async def audited(self, tenant: str, *, at_most: int) -> ActiveJobs | None:
        """The same by the records, and stale hints dropped; None if that was done a short while ago."""
        if self._audited.get(tenant) is not None:
            return None
        self._audited.put(tenant, None)
        load = await self._count(tenant, at_most, self._rows)
        self._counted.put(tenant, load)
        return load

    async def _count(self, tenant: str, at_most: int, ids_of: IdsOf) -> ActiveJobs:
        """With every job that this process writes at any time meanwhile: a LIST may have been too early for it."""
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
            page = await self._jobs.page(tenant, status=status, limit=AUDIT_PAGE, cursor=cursor)
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

"""`JobFeed`: finds the jobs of one tenant that have changed since the last poll, by LISTs of its index.

A poll costs one LIST for each thousand active jobs, one for the newest, and a GET for each change. Index keys only say
which records to read: what is reported comes from the records.
"""

from datetime import datetime, timedelta

from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import JobGone, JobNotFound
from storage.index_keys import ListEntry, list_prefix
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import JobStore

MOST_PAGES = 10
"""LISTs of a thousand keys of one list that a poll makes. Active jobs beyond them are found when they move up."""
MOST_READS = 256
"""Records that a poll reads. The next poll reads the rest."""
OVERLAP = timedelta(seconds=60)
"""How far before the last poll new jobs are searched for: a job's keys are written after its creation time."""

_Listed = frozenset[tuple[Status, int]]
"""The keys of a job in the lists of active jobs. For a moment, or after a crash, it has a stale one as well."""


class JobFeed:
    """`active` has the ids of the jobs that were queued or running at the last poll, as far as it listed them."""

    def __init__(self, jobs: JobStore, objects: ObjectStore, clock: Clock, tenant: str) -> None:
        self.active: dict[str, _Listed] = {}
        self.is_complete = True
        """Whether the last poll listed all active jobs."""
        self._jobs, self._objects, self._clock = jobs, objects, clock
        self._tenant = tenant
        self._seen: dict[str, datetime] = {}
        """The recent jobs that were found, by their creation times."""
        self._polled_at: datetime | None = None

    async def poll(self) -> list[JobRecord]:
        """Return the records that have changed, in no order. The first poll only takes stock, and returns none.

        Raises `StorageError`; the next poll then finds the same changes.
        """
        now, is_first = self._clock.now(), self._polled_at is None
        since = (self._polled_at or now) - OVERLAP
        active = await self._active()
        recent = await self._created_after(since)
        if is_first:
            self.active, self._seen, self._polled_at = active, recent, now
            return []
        moved = [job_id for job_id, listed in active.items() if self.active.get(job_id) != listed]
        ended = [job_id for job_id in self.active if job_id not in active]
        short = [job_id for job_id in recent if job_id not in self._seen and job_id not in active]
        changed = [*dict.fromkeys((*ended, *moved, *short))][:MOST_READS]
        found = dict(await map_bounded(changed, self._read))
        self._take(found, active, recent, since)
        # A poll that had to leave something out covers its time again.
        if len(changed) < MOST_READS:
            self._polled_at = now
        return [record for record in found.values() if record is not None]

    def _take(
        self,
        found: dict[str, JobRecord | None],
        active: dict[str, _Listed],
        recent: dict[str, datetime],
        since: datetime,
    ) -> None:
        for job_id, record in found.items():
            if job_id in active:
                self.active[job_id] = active[job_id]
            else:
                self.active.pop(job_id, None)
            if job_id in recent and record is not None:  # else its commit may follow
                self._seen[job_id] = recent[job_id]
        self._seen |= {job_id: at for job_id, at in recent.items() if job_id in self.active}
        self._seen = {job_id: at for job_id, at in self._seen.items() if at >= since}

    async def _active(self) -> dict[str, _Listed]:
        found: dict[str, _Listed] = {}
        self.is_complete = True
        for status in (Status.QUEUED, Status.RUNNING):
            after = ""
            for _ in range(MOST_PAGES):
                page = await self._objects.list(list_prefix(self._tenant, status), after=after)
                for key in page.keys:
                    entry = ListEntry.parse(key)
                    found[entry.job_id] = found.get(entry.job_id, frozenset()) | {(status, entry.attempt or 0)}
                if not page.more:
                    break
                after = page.keys[-1]
            else:
                self.is_complete = False
        return found

    async def _created_after(self, since: datetime) -> dict[str, datetime]:
        """Return the newest jobs, which are the first in the list of all."""
        found: dict[str, datetime] = {}
        after, size = "", 100
        for _ in range(MOST_PAGES):
            page = await self._objects.list(list_prefix(self._tenant, None), after=after, limit=size)
            entries = [ListEntry.parse(key) for key in page.keys]
            found |= {entry.job_id: entry.created_at for entry in entries if entry.created_at >= since}
            if not page.more or entries[-1].created_at < since:
                break
            after, size = page.keys[-1], 1000
        return found

    async def _read(self, job_id: str) -> tuple[str, JobRecord | None]:
        try:
            return job_id, (await self._jobs.read(self._tenant, job_id)).record
        except (JobGone, JobNotFound):
            return job_id, None

"""Notices the end of a batch's last job in the process that commits it, so that the batch's timer may be slow.

Each end of a job of a batch with a receiver lists the batch's member keys up to the first job that is unfinished, which
is on the first page as long as many are. A process that dies in between leaves the end to the timer's next check.
"""

from collections.abc import Awaitable, Callable
from itertools import groupby

from storage.bucket.objects import ObjectStore
from storage.index_keys import MemberEntry, members_prefix
from storage.jobs.record import JobRecord, Status

PAGE = 100


class LastJobs:
    """`check` commits the batch's end if every job has ended."""

    def __init__(self, objects: ObjectStore, check: Callable[[str, str], Awaitable[None]]) -> None:
        self._objects = objects
        self._check = check
        self._again: dict[tuple[str, str], bool] = {}
        """The batches that are being looked at, and whether a job has ended since the look began."""

    async def job_ended(self, record: JobRecord) -> None:
        """Check the batch of a job whose end has been committed, if no other of its jobs is unfinished."""
        if record.batch_id is None:
            return
        batch = record.tenant, record.batch_id
        is_under_way = batch in self._again
        self._again[batch] = True
        # One look at a time, since the jobs of a cancelled batch end together.
        if is_under_way:
            return
        try:
            while self._again[batch]:
                self._again[batch] = False
                if not await self._has_unfinished(*batch):
                    await self._check(*batch)
        finally:
            del self._again[batch]

    async def _has_unfinished(self, tenant: str, batch_id: str) -> bool:
        prefix, after = members_prefix(tenant, batch_id), ""
        while True:
            page = await self._objects.list(prefix, after=after, limit=PAGE)
            jobs = [list(entries) for _, entries in groupby(map(MemberEntry.parse, page.keys), lambda e: e.job_id)]
            # The last job of a page may have its newest key on the next one.
            whole = jobs[:-1] if page.more else jobs
            if any(not any(Status(entry.status).is_terminal for entry in entries) for entries in whole):
                return True
            if not page.more:
                return False
            after = page.keys[-1]

"""Removing jobs: a finished one whose time is over, or one whose submission died before its commit.

The record's place is taken by a tombstone first, by a conditional write: from then on the job answers 410, and no
late writer can bring it back. Then everything below its prefix goes, and its hints. A deadline is written before the
tombstone, so that whatever dies in between, the reaper goes on.
"""

from datetime import datetime, timedelta

from storage import keys
from storage.bucket.conditional import compare_and_swap
from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.errors import JobGone, JobNotFound, PreconditionFailed
from storage.hint_keys import Deadline, IndexEntry, members_prefix
from storage.jobs.hints import event_ref, hints_of, list_key
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import ABANDONED, YOUNG_HINT, JobStore, StoredJob
from storage.jobs.tombstone import Tombstone, clear
from storage.webhooks.deliveries import DeliveryStore

EVENTS_PENDING = timedelta(minutes=10)
"""Before a job is looked at again whose events are still being delivered."""


class JobRemover:
    def __init__(self, jobs: JobStore, deliveries: DeliveryStore, objects: ObjectStore, clock: Clock) -> None:
        self._jobs = jobs
        self._deliveries = deliveries
        self._objects = objects
        self._clock = clock

    async def purge(self, stored: StoredJob) -> None:
        """Remove a finished job now. `PreconditionFailed` if it changed meanwhile."""
        await self._entomb(stored)

    async def is_free_to_go(self, record: JobRecord) -> bool:
        """Whether it has ended, and each of its events was delivered or given up: they are made of the record."""
        return record.status.is_terminal and await self._deliveries.is_over(
            event_ref(record, event) for event in record.events
        )

    async def discard(self, tenant: str, job_id: str, created_at: datetime) -> None:
        """Remove a job of a batch that can no longer be accepted, written or not: no worker knows of it.

        Only a look at one of its old deadlines can come between, once each: it is tried again at once, for the next
        sweep would look at the batch and at such a deadline together again.
        """
        try:
            await compare_and_swap(f"job {job_id}", lambda: self._jobs.read(tenant, job_id), self._entomb)
        except JobGone:
            pass
        except JobNotFound:
            await self.bury(tenant, job_id, created_at)

    async def _entomb(self, stored: StoredJob) -> None:
        record = stored.record
        hints = {*hints_of(record), list_key(record), *await self._member_hints(record)}
        hints |= {*await self._deliveries.dead_letters_of(event_ref(record, event) for event in record.events)}
        tombstone = Tombstone(gone_at=self._clock.now(), hints=tuple(sorted(hints)))
        pending = Deadline(tombstone.gone_at, "job", record.tenant, record.job_id)
        await self._objects.put(pending.key, b"")
        key = keys.record(record.tenant, record.job_id)
        await self._objects.replace(key, tombstone.to_json(), etag=stored.etag)
        await self._clear_away(pending)

    async def bury(self, tenant: str, job_id: str, created_at: datetime) -> None:
        """Clear away what a submission left that never committed; a job that exists after all is left alone."""
        hints = (
            IndexEntry(created_at, job_id, None).key(tenant, None),
            IndexEntry(created_at, job_id, 0).key(tenant, Status.QUEUED),
        )
        tombstone = Tombstone(gone_at=self._clock.now(), hints=hints)
        pending = Deadline(tombstone.gone_at, "job", tenant, job_id)
        await self._objects.put(pending.key, b"")
        try:
            await self._objects.create(keys.record(tenant, job_id), tombstone.to_json())
        except PreconditionFailed:
            return  # whoever was first has seen to it; the deadline is looked at once more
        await self._clear_away(pending)

    async def look(self, deadline: Deadline) -> datetime | None:
        """Do what is due for this job; returns when to look again. `PreconditionFailed` if it changes right now."""
        now = self._clock.now()
        try:
            stored = await self._jobs.read(deadline.tenant, deadline.id)
        except JobGone:
            return await clear(self._objects, keys.record(deadline.tenant, deadline.id), now)
        except JobNotFound:
            if deadline.kind == "draft":
                await self.bury(deadline.tenant, deadline.id, deadline.due - ABANDONED)
                return None
            return now + YOUNG_HINT if now - deadline.due < YOUNG_HINT else None  # it may be committing
        if deadline.kind == "draft":
            await self._jobs.publish(stored.record)
            return None
        return await self._end(stored, deadline, now)

    async def _end(self, stored: StoredJob, deadline: Deadline, now: datetime) -> datetime | None:
        record = stored.record
        if (expired := record.expire_in_queue(now=now)) is not record:
            await self._jobs.advance(stored, expired)
        elif record.status.is_terminal and record.next_deadline is not None and record.next_deadline <= now:
            if not await self.is_free_to_go(record):
                return now + EVENTS_PENDING
            await self.purge(stored)
        elif _is_about_to_end(record, deadline, now):
            raise PreconditionFailed(deadline.key)
        else:  # the deadline is an old one, or of a change that someone gave up
            await self._jobs.touch(stored)
        return None

    async def _member_hints(self, record: JobRecord) -> tuple[str, ...]:
        """All that its batch has of it: one that was left behind would tell that the job is still there."""
        if record.batch_id is None:
            return ()
        return (await self._objects.list(members_prefix(record.tenant, record.batch_id) + record.job_id)).keys

    async def _clear_away(self, pending: Deadline) -> None:
        again = await clear(self._objects, keys.record(pending.tenant, pending.id), self._clock.now())
        if again is not None:
            await self._objects.put(Deadline(again, "job", pending.tenant, pending.id).key, b"")
        await self._objects.delete(pending.key)


def _is_about_to_end(record: JobRecord, deadline: Deadline, now: datetime) -> bool:
    """Whether this deadline may belong to an end with `retain_s` 0 that is still being committed.

    It is due at once; deleting it could delete the identical key that a second try writes.
    """
    if record.status.is_terminal or now - deadline.due >= YOUNG_HINT:
        return False
    limit = record.queue_deadline
    return limit is None or Deadline(limit, "job", record.tenant, record.job_id).key != deadline.key

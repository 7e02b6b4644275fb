"""The outbox: events that are committed inside a record, and the outbox entries that name them.

An outbox entry is an index key that is written before the commit of its event (`storage.jobs.index`), so its event may
not be committed yet, or never will be. The entry is deleted once the event was delivered, given up or superseded, or
once a fence ensures that no paused writer can still commit it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from storage import keys
from storage.batch_record import BatchRecord
from storage.batches import BatchStore
from storage.bucket.objects import KeyPage, ObjectStore, confirm_absence
from storage.clock import Clock
from storage.errors import BatchGone, BatchNotFound, JobNotFound, PreconditionFailed
from storage.index_keys import OUTBOX, EventRef, OutboxEntry, behind_outbox_of, outbox_prefix
from storage.jobs.index import endpoint_of, event_ref
from storage.jobs.models import JobEvent
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import JobStore
from storage.jobs.timers import YOUNG
from storage.webhooks.deliveries import DeliveryStore

PAGE = 1000


@dataclass(frozen=True, slots=True)
class JobHappened:
    """An event of a job, with the job's current record."""

    ref: EventRef
    url: str
    record: JobRecord
    event: JobEvent

    @property
    def time(self) -> datetime:
        return self.event.time


@dataclass(frozen=True, slots=True)
class BatchFinished:
    """The event that every job of a batch has ended."""

    ref: EventRef
    url: str
    time: datetime
    record: BatchRecord
    statuses: Mapping[str, Status | None]


@dataclass(frozen=True, slots=True)
class TestAsked:
    """A test event that a client requested for a receiver."""

    ref: EventRef
    url: str
    time: datetime


Committed = JobHappened | BatchFinished | TestAsked
Found = Committed | Literal["later", "never"]
"""`later`: the event may still be committed; `never`: it was superseded or given up, and the entry may be deleted."""


@dataclass(frozen=True, slots=True)
class DuePage:
    """The due entries of one LIST, by tenant, each tenant's soonest first."""

    entries: tuple[OutboxEntry, ...]
    rest: Mapping[str, str] = field(default_factory=dict)
    """The tenant, if any, that has more due, and the key to continue after."""
    next_tenants: str | None = None
    """The key after which further tenants follow; None if there are none."""


class Outbox:
    def __init__(
        self, jobs: JobStore, batches: BatchStore, deliveries: DeliveryStore, objects: ObjectStore, clock: Clock
    ) -> None:
        self._jobs = jobs
        self._batches = batches
        self._deliveries = deliveries
        self._objects = objects
        self._clock = clock

    async def due(self, after: str = "") -> DuePage:
        """List once: return what is due of the tenants that follow the key `after`."""
        page = await self._objects.list(OUTBOX, after=after, limit=PAGE)
        found = await self._entries(page)
        due = tuple(entry for entry in found if entry.due <= self._clock.now())
        if not page.more or not page.keys:
            return DuePage(due)
        if not found:  # nothing of ours on the whole page
            return DuePage(due, next_tenants=page.keys[-1])
        # The page ends within a tenant or at its end. Its further entries are listed separately (`due_of`), so that
        # they do not delay those of the tenants behind it.
        last = found[-1]
        rest = {last.ref.tenant: page.keys[-1]} if last.due <= self._clock.now() else {}
        return DuePage(due, rest, behind_outbox_of(last.ref.tenant))

    async def due_of(self, tenant: str, after: str) -> DuePage:
        """List once: return what is due of one tenant and follows the key `after`."""
        page = await self._objects.list(outbox_prefix(tenant), after=after, limit=PAGE)
        found = await self._entries(page)
        due = tuple(entry for entry in found if entry.due <= self._clock.now())
        has_rest = page.more and len(due) == len(found)
        return DuePage(due, {tenant: page.keys[-1]} if has_rest else {})

    async def _entries(self, page: KeyPage) -> list[OutboxEntry]:
        entries = list[OutboxEntry]()
        for key in page.keys:
            try:
                entries.append(OutboxEntry.parse(key))
            except ValueError:
                await self._objects.delete(key)  # it can never be delivered
        return entries

    async def find(self, entry: OutboxEntry) -> Found:
        """Return the committed event of an entry, or why there is none."""
        match entry.ref.kind:
            case "job":
                return await self._of_job(entry)
            case "batch":
                return await self._of_batch(entry)
            case "test":
                return await self._of_test(entry)

    async def _of_job(self, entry: OutboxEntry) -> Found:
        ref = entry.ref
        try:
            stored = await self._jobs.read(ref.tenant, ref.id)
        except JobNotFound as missing:
            if self._is_young(entry):
                return "later"
            await self._jobs.confirm_missing(ref.tenant, ref.id, missing)
            return "never"
        record = stored.record
        for event in record.events:
            if event.sequence == ref.sequence and record.webhook_url is not None:
                return JobHappened(ref, record.webhook_url, record, event)
        if ref.sequence < record.next_sequence:
            return "never"  # the record has passed this sequence, so the event was superseded
        if self._is_young(entry):
            return "later"
        # A writer that was paused before its commit could still commit the event; the fence rules that out.
        try:
            await self._jobs.rearm(stored, record.due_at)
        except PreconditionFailed:
            return "later"
        return "never"

    async def _of_batch(self, entry: OutboxEntry) -> Found:
        ref = entry.ref
        try:
            record = (await self._batches.read(ref.tenant, ref.id)).record
        except BatchNotFound as missing:
            if self._is_young(entry):
                return "later"
            if not isinstance(missing, BatchGone):
                # A draft counts as not found as well, and cannot have events.
                await confirm_absence(self._objects, keys.batch(ref.tenant, ref.id))
            return "never"
        if record.finished_at is None or record.webhook_url is None:
            return "later"  # the reaper checks the batch until it is finished, then commits this event
        statuses = await self._batches.statuses(record)
        return BatchFinished(ref, record.webhook_url, record.finished_at, record, statuses)

    async def _of_test(self, entry: OutboxEntry) -> Found:
        stored = await self._deliveries.find(entry.ref)
        if stored is None and self._is_young(entry):
            return "later"
        if stored is None:
            await self._deliveries.confirm_missing(entry.ref)
            return "never"
        return TestAsked(entry.ref, stored.record.url, entry.due)

    def _is_young(self, entry: OutboxEntry) -> bool:
        """Whether the event of the entry may still be committed."""
        return self._clock.now() - entry.due <= YOUNG

    async def announce_again(self, record: JobRecord) -> None:
        """Rewrite the entry of each event of the job that was neither delivered nor given up."""
        for event in record.events if record.webhook_url is not None else ():
            ref = event_ref(record, event)
            stored = await self._deliveries.find(ref)
            if stored is None:
                await self.keep(OutboxEntry(event.time, endpoint_of(record.webhook_url or ""), ref, event.rev))
            elif stored.record.outbox_entry is not None:  # pending, but its entry may be missing
                await self.keep(stored.record.outbox_entry)

    async def drop(self, entry: OutboxEntry) -> None:
        """Delete an entry."""
        await self._objects.delete(entry.key)

    async def keep(self, entry: OutboxEntry) -> None:
        """Write an entry, again if it exists."""
        await self._objects.put(entry.key, b"")

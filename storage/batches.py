"""Batches: many jobs that are accepted together, or not at all.

    (nothing) ──▶ draft ──▶ open ───────▶ removed
                    └─────▶ abandoned ──▶ removed

A draft names its jobs. They are written one by one, without the hints by which a worker would find them; then one
conditional write opens the batch: that is the acceptance. Hints follow, in any order and any number of times. A
deadline is written before each step, so that the reaper publishes what was opened, goes on with a cancellation,
and clears away a draft that was left.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from storage import keys
from storage.bucket.conditional import commit, compare_and_swap
from storage.bucket.objects import ObjectStore, all_keys
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import BatchGone, BatchNotFound, JobNotFound, ObjectNotFound, PreconditionFailed
from storage.hint_keys import Deadline, DueEntry, EventRef, MemberEntry, members_prefix
from storage.jobs.hints import endpoint_of
from storage.jobs.record import DEFAULT_RETAIN_S, JobRecord, Status
from storage.jobs.store import ABANDONED, YOUNG_HINT, JobStore
from storage.jobs.tombstone import Tombstone, clear
from storage.removal import EVENTS_PENDING, JobRemover
from storage.value import Value, read_as
from storage.webhooks.deliveries import DeliveryStore

LOOK_AGAIN = timedelta(days=1)
"""After its time a batch waits for its last job to be removed."""

FINISHED_WITHIN = timedelta(seconds=20)
"""How often it is looked at whether a batch is finished."""
FINISHED_LATE = timedelta(minutes=5)
"""After a batch's time: each look then reads the jobs that seem not to be over."""
PUBLISHED_WITHIN = CANCELLED_WITHIN = timedelta(minutes=1)
"""Afterwards the reaper does what the process that opened or cancelled a batch may have left undone."""


class BatchRecord(Value):
    """The content of batch.json. `rev` and `nonce` as in a job's record."""

    tenant: str
    batch_id: str
    rev: int = 0
    nonce: str = ""
    state: Literal["draft", "open", "abandoned"] = "draft"
    job_ids: tuple[str, ...]
    warned: tuple[int, ...] = ()
    """Positions of the jobs that were accepted with warnings."""
    metadata: dict[str, str] = Field(default_factory=dict)
    created_at: datetime
    cancel_requested_at: datetime | None = None
    webhook_url: str | None = None
    """Who is told when every job is over."""
    finished_at: datetime | None = None
    """When that was found to be so; looked for only where someone is to be told."""
    has_webhook_secret: bool = False
    """Whether the batch brought a secret of its own, which lies beside the record."""
    is_seen_to: bool = False
    """Whether nothing is left to do of its opening and its cancellation: every job was announced, or told to stop."""
    retain_s: int = DEFAULT_RETAIN_S

    def moved(self, state: Literal["open", "abandoned"]) -> "BatchRecord":
        """Only a draft moves."""
        return self.model_copy(update={"state": state}) if self.state == "draft" else self

    @property
    def is_open(self) -> bool:
        return self.state == "open"

    @property
    def next(self) -> "BatchRecord":
        return self.model_copy(update={"rev": self.rev + 1})

    @property
    def expires_at(self) -> datetime:
        return self.created_at + timedelta(seconds=self.retain_s)

    @property
    def finish(self) -> EventRef:
        """The event of its end, its only one."""
        return EventRef(self.tenant, "batch", self.batch_id, 1)

    @property
    def awaits_its_end(self) -> bool:
        """Whether someone is to be told of it, and it was not seen yet."""
        return self.webhook_url is not None and self.finished_at is None


@dataclass(frozen=True, slots=True)
class StoredBatch:
    record: BatchRecord
    etag: str


def member_id(batch_id: str, position: int) -> str:
    """The same for every repeat of a request, so that a repeat goes on where the first one died."""
    return str(uuid.uuid5(uuid.UUID(batch_id), str(position)))


class BatchStore:
    def __init__(
        self, jobs: JobStore, remover: JobRemover, deliveries: DeliveryStore, objects: ObjectStore, clock: Clock
    ) -> None:
        self._jobs = jobs
        self._remover = remover
        self._deliveries = deliveries
        self._objects = objects
        self._clock = clock

    async def draft(self, record: BatchRecord) -> StoredBatch:
        """Name the jobs that are about to be written; the present record where a repeat finds one."""
        await self._put_deadline(record, record.created_at + ABANDONED)
        try:
            return await self._commit(record, etag=None)
        except PreconditionFailed:
            return await self._read(record.tenant, record.batch_id)

    async def accept(self, draft: StoredBatch, jobs: Sequence[JobRecord]) -> StoredBatch:
        """Open a batch whose jobs are all written, and make them findable. `BatchGone` if it was abandoned."""
        look_at = self._clock.now() + PUBLISHED_WITHIN
        await self._put_deadline(draft.record, draft.record.expires_at)
        opened = await self._change(draft, lambda record: record.moved("open"), look_at=look_at)
        if not opened.record.is_open:
            raise BatchGone(opened.record.batch_id, self._clock.now())
        await map_bounded(jobs, self._jobs.publish)
        await self._drop_deadline(opened.record, look_at)
        return opened

    async def read(self, tenant: str, batch_id: str) -> StoredBatch:
        """`BatchNotFound` also for a draft, `BatchGone`."""
        try:
            stored = await self._read(tenant, batch_id)
        except ValueError:
            raise BatchNotFound(batch_id) from None
        if not stored.record.is_open:
            raise BatchNotFound(batch_id)
        return stored

    async def statuses(self, record: BatchRecord) -> Mapping[str, Status | None]:
        """Each job's status, None for one that was removed: by hints, and by its record where they are unclear.

        So is a single hint of an old batch that says of a job that it is not over: a write that was held up may have
        left it after the job's removal.
        """
        hinted: dict[str, list[Status]] = {job_id: [] for job_id in record.job_ids}
        for entry in await self._members(record):
            if entry.job_id in hinted:
                hinted[entry.job_id].append(Status(entry.status))
        is_old = self._clock.now() >= record.expires_at
        unclear = [
            job_id for job_id, found in hinted.items() if len(found) != 1 or (is_old and not found[0].is_terminal)
        ]
        read = await map_bounded(unclear, lambda job_id: self._status(record.tenant, job_id))
        known = dict(zip(unclear, read, strict=True))
        return {job_id: known[job_id] if job_id in known else hinted[job_id][0] for job_id in record.job_ids}

    async def cancel(self, stored: StoredBatch) -> StoredBatch:
        """Cancel every job that is not over. Durable once the request is written, whatever dies then."""
        now = self._clock.now()
        look_at = now + CANCELLED_WITHIN
        stored = await self._change(
            stored,
            lambda record: record.model_copy(
                update={"cancel_requested_at": record.cancel_requested_at or now, "is_seen_to": False}
            ),
            look_at=look_at,
        )
        await self._cancel_jobs(stored.record)
        await self._drop_deadline(stored.record, look_at)
        return stored

    async def look(self, deadline: Deadline) -> datetime | None:
        """Do what is due for this batch; returns when to look again."""
        now = self._clock.now()
        try:
            stored = await self._read(deadline.tenant, deadline.id)
        except BatchGone:
            return await clear(self._objects, keys.batch(deadline.tenant, deadline.id), now)
        except BatchNotFound:
            return now + YOUNG_HINT if now - deadline.due < YOUNG_HINT else None
        record = stored.record
        if not record.is_open:
            return await self._abandon(stored) if now >= record.created_at + ABANDONED else now + YOUNG_HINT
        if now >= record.expires_at and not record.awaits_its_end:
            return await self._remove(stored)
        stored = await self._go_on(stored)
        return await self._finish(stored) if record.awaits_its_end else None

    async def _go_on(self, stored: StoredBatch) -> StoredBatch:
        """Do, once, what the process that opened or cancelled the batch may have left undone.

        Always rewrites the record, even unchanged. The new ETag makes a writer that holds the older version fail and
        write its deadline again; only then may the present one be deleted.
        """
        record = stored.record
        if not record.is_seen_to:
            await map_bounded(record.job_ids, lambda job_id: self._publish_again(record.tenant, job_id))
            if record.cancel_requested_at is not None:
                await self._cancel_jobs(record)
        return await self._commit(record.model_copy(update={"is_seen_to": True}).next, etag=stored.etag)

    async def _finish(self, stored: StoredBatch) -> datetime | None:
        """Note that every job is over, for someone is to be told; returns when to look again."""
        record, now = stored.record, self._clock.now()
        assert record.webhook_url is not None  # noqa: S101  else nobody is to be told
        if any(status and not status.is_terminal for status in (await self.statuses(record)).values()):
            return now + (FINISHED_WITHIN if now < record.expires_at else FINISHED_LATE)
        await self._objects.put(DueEntry(now, endpoint_of(record.webhook_url), record.finish).key, b"")
        await self._commit(record.model_copy(update={"finished_at": now}).next, etag=stored.etag)
        return None if now < record.expires_at else now

    async def _publish_again(self, tenant: str, job_id: str) -> None:
        try:
            await self._jobs.publish((await self._jobs.read(tenant, job_id)).record)
        except JobNotFound:
            return

    async def _abandon(self, stored: StoredBatch) -> datetime | None:
        """From the first write on it cannot be opened; its jobs are known until the last of them is gone."""
        stored = await self._change(stored, lambda record: record.moved("abandoned"))
        record = stored.record
        if record.is_open:
            return record.expires_at
        await map_bounded(
            record.job_ids, lambda job_id: self._remover.discard(record.tenant, job_id, record.created_at)
        )
        return await self._entomb(stored)

    async def _remove(self, stored: StoredBatch) -> datetime:
        record = stored.record
        if any(await map_bounded(record.job_ids, lambda job_id: self._status(record.tenant, job_id))):
            return self._clock.now() + LOOK_AGAIN
        if record.finished_at is not None and not await self._deliveries.is_over([record.finish]):
            return self._clock.now() + EVENTS_PENDING
        return await self._entomb(stored)

    async def _entomb(self, stored: StoredBatch) -> datetime:
        """A tombstone in its place, and everything beside it gone; a dead letter of its event as well."""
        record, key = stored.record, keys.batch(stored.record.tenant, stored.record.batch_id)
        letters = await self._deliveries.dead_letters_of([record.finish])
        tombstone = Tombstone(gone_at=self._clock.now(), hints=tuple(letters))
        await self._put_deadline(record, tombstone.ends_at)
        await self._objects.replace(key, tombstone.to_json(), etag=stored.etag)
        await clear(self._objects, key, self._clock.now())
        return tombstone.ends_at

    async def _cancel_jobs(self, record: BatchRecord) -> None:
        unfinished = [
            job_id for job_id, status in (await self.statuses(record)).items() if status and not status.is_terminal
        ]
        await map_bounded(unfinished, lambda job_id: self._cancel_job(record.tenant, job_id))

    async def _cancel_job(self, tenant: str, job_id: str) -> None:
        now = self._clock.now()
        try:
            await self._jobs.evolve(tenant, job_id, lambda record: record.cancel(now=now))
        except JobNotFound:
            return  # removed meanwhile

    async def _status(self, tenant: str, job_id: str) -> Status | None:
        try:
            return (await self._jobs.read(tenant, job_id)).record.status
        except JobNotFound:
            return None

    async def _members(self, record: BatchRecord) -> list[MemberEntry]:
        pages = all_keys(self._objects, members_prefix(record.tenant, record.batch_id))
        return [MemberEntry.parse(key) async for page in pages for key in page]

    async def _read(self, tenant: str, batch_id: str) -> StoredBatch:
        try:
            stored = await self._objects.get(keys.batch(tenant, batch_id))
        except ObjectNotFound:
            raise BatchNotFound(batch_id) from None
        if (tombstone := Tombstone.parse(stored.body)) is not None:
            raise BatchGone(batch_id, tombstone.gone_at)
        return StoredBatch(read_as(BatchRecord, stored.head.key, stored.body), stored.head.etag)

    async def _change(
        self, stored: StoredBatch, change: Callable[[BatchRecord], BatchRecord], *, look_at: datetime | None = None
    ) -> StoredBatch:
        """`look_at`: when the reaper shall see that what follows from the change was done. Written before it."""
        tenant, batch_id = stored.record.tenant, stored.record.batch_id

        async def write(found: StoredBatch) -> StoredBatch:
            changed = change(found.record)
            if changed == found.record:
                return found
            if look_at is not None:
                await self._put_deadline(found.record, look_at)
            return await self._commit(changed.next, etag=found.etag)

        return await compare_and_swap(f"batch {batch_id}", lambda: self._read(tenant, batch_id), write, at_hand=stored)

    async def _commit(self, record: BatchRecord, *, etag: str | None) -> StoredBatch:
        return StoredBatch(*await commit(self._objects, keys.batch(record.tenant, record.batch_id), record, etag=etag))

    async def _put_deadline(self, record: BatchRecord, due: datetime) -> None:
        await self._objects.put(Deadline(due, "batch", record.tenant, record.batch_id).key, b"")

    async def _drop_deadline(self, record: BatchRecord, due: datetime) -> None:
        """It was met; that of a batch whose end is awaited leads the reaper to it."""
        if record.awaits_its_end:
            return
        await self._objects.delete(Deadline(due, "batch", record.tenant, record.batch_id).key)

"""Batches: many jobs that are accepted atomically.

    (nothing) ──▶ draft ──▶ open ───────▶ removed
                    └─────▶ abandoned ──▶ removed

A draft names its jobs. The jobs are written one by one, without the index keys by which workers find them. One
conditional write then opens the batch, which accepts all of them, and the index keys follow. Each version of the record
names a timer. Its handler finishes a publication or cancellation that was interrupted and deletes abandoned drafts.
An open batch has a row in the list of batches (`storage.batch_pages`), an index key as those of its jobs.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from storage import keys
from storage.batch_end import LastJobs
from storage.batch_record import BatchRecord, StoredBatch, index_keys, list_key
from storage.bucket.budget import allow_more
from storage.bucket.objects import ObjectStore, all_keys, confirm_absence
from storage.bucket.records import commit, compare_and_swap, read_as
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import BatchGone, BatchNotFound, JobNotFound, ObjectNotFound, PreconditionFailed
from storage.index_keys import MemberEntry, OutboxEntry, members_prefix
from storage.index_writer import IndexWriter
from storage.jobs.index import endpoint_of
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import JobStore
from storage.jobs.timers import ABANDONED, YOUNG
from storage.removal import JobRemover
from storage.timers import Lane, Timer
from storage.tombstone import Tombstone, collect_garbage, end_timer
from storage.webhooks.deliveries import DeliveryStore

CHECK_AGAIN = timedelta(days=1)
"""Time between two checks of an expired batch for its last job's removal."""
EVENTS_PENDING = timedelta(minutes=10)
"""Time between two checks for the delivery of a batch's event."""
FINISHED_WITHIN, FINISHED_LATE = timedelta(seconds=20), timedelta(minutes=10)
"""Shortest and longest time between two checks for the end of every job. It doubles while no job ends: a batch may wait
in the queue for days, and the process that ends its last job checks it at once (`storage.batch_end`)."""
FINISHED_EXPIRED = timedelta(minutes=5)
"""Shortest time for an expired batch, whose checks also read the jobs that seem unfinished."""
DOUBLINGS = 10
"""Enough for the longest time; a higher power would only be a large number."""
PUBLISHED_WITHIN = CANCELLED_WITHIN = timedelta(minutes=1)
"""Time that the process which opened or cancelled a batch has to finish before the timer's handler takes over."""


SECONDS_A_JOB = 0.1
"""Seconds that each job of a batch adds to its request's time limit for bucket calls."""


class BatchStore:
    def __init__(
        self, jobs: JobStore, remover: JobRemover, deliveries: DeliveryStore, objects: ObjectStore, clock: Clock
    ) -> None:
        self._jobs = jobs
        self._remover = remover
        self._deliveries = deliveries
        self._objects = objects
        self._index = IndexWriter(objects)
        self._clock = clock
        jobs.on_batch_job_ended = LastJobs(objects, self._check_end).job_ended

    async def draft(self, record: BatchRecord) -> StoredBatch:
        """Store the draft that names the jobs to be written; return the existing record if the request is a repeat."""
        allow_more(SECONDS_A_JOB * len(record.job_ids))
        # The timer precedes the draft, and the draft its jobs: after a crash at any point the handler finds them.
        timer = _timer(record, record.created_at + ABANDONED, now=record.created_at)
        await self._objects.put(timer.key, b"")
        try:
            return await self._commit(record.model_copy(update={"timer": timer.key}), etag=None)
        except PreconditionFailed:
            return await self._read(record.tenant, record.batch_id)

    async def accept(self, draft: StoredBatch, jobs: Sequence[JobRecord]) -> tuple[StoredBatch, bool]:
        """Open a batch whose jobs are all written, and publish them. Raises `BatchGone` if it was abandoned.

        Returns the batch, and whether this call opened it: a concurrent repeat of the request may have done so.
        """
        is_first = True

        def opening(record: BatchRecord) -> BatchRecord:
            nonlocal is_first
            is_first = not record.is_open
            return record.moved("open")

        opened = await self._change(draft, opening, within=PUBLISHED_WITHIN)
        if not opened.record.is_open:
            raise BatchGone(opened.record.batch_id, self._clock.now())
        # The batch is accepted by now. If this process dies here, the timer's handler publishes the other jobs.
        await map_bounded(jobs, self._jobs.publish)
        return await self._reconciled(opened), is_first

    async def read(self, tenant: str, batch_id: str) -> StoredBatch:
        """Read an open batch. Raises `BatchNotFound`, for a draft too, or `BatchGone`."""
        try:
            stored = await self._read(tenant, batch_id)
        except ValueError:
            raise BatchNotFound(batch_id) from None
        if not stored.record.is_open:
            raise BatchNotFound(batch_id)
        return stored

    async def statuses(self, record: BatchRecord) -> Mapping[str, Status | None]:
        """Return each job's status, None if it was removed.

        The index keys give the status; the record decides if a job's keys are ambiguous.
        """
        listed = await self._listed(record)
        # After the batch's time even a single key of an unfinished job is ambiguous: a paused writer may have written
        # it after the job's removal.
        is_old = self._clock.now() >= record.expires_at
        unclear = [
            job_id for job_id, found in listed.items() if len(found) != 1 or (is_old and not found[0].is_terminal)
        ]
        read = await map_bounded(unclear, lambda job_id: self._status(record.tenant, job_id))
        known = dict(zip(unclear, read, strict=True))
        return {job_id: known[job_id] if job_id in known else listed[job_id][0] for job_id in record.job_ids}

    async def rough_statuses(self, record: BatchRecord) -> list[Status | None]:
        """Return the jobs' statuses by their index keys, None for a job without one: removed, so far as is known.

        Only records of jobs with several keys are read: one for each job that is changing, not for each removed one.
        """
        listed = await self._listed(record)
        unclear = [job_id for job_id, found in listed.items() if len(found) > 1]
        read = await map_bounded(unclear, lambda job_id: self._status(record.tenant, job_id))
        # The keys of a batch's jobs are written after it was opened.
        absent = None if record.is_reconciled else Status.QUEUED
        return [*read, *((found[0] if found else absent) for found in listed.values() if len(found) < 2)]

    async def cancel(self, stored: StoredBatch) -> StoredBatch:
        """Cancel every unfinished job. The cancellation is durable once the batch records it."""
        allow_more(SECONDS_A_JOB * len(stored.record.job_ids))
        now, was_reconciled = self._clock.now(), False

        def cancelled(record: BatchRecord) -> BatchRecord:
            nonlocal was_reconciled
            was_reconciled = record.is_reconciled
            cancelled_at = record.cancel_requested_at or now
            restart = {"is_reconciled": False, "checks_without_end": 0}
            return record.model_copy(update={"cancel_requested_at": cancelled_at, **restart})

        stored = await self._change(stored, cancelled, within=CANCELLED_WITHIN)
        await self._cancel_jobs(stored.record)
        # If its jobs were not all published, the timer's handler publishes and cancels them.
        return await self._reconciled(stored) if was_reconciled else stored

    async def on_due(self, timer: Timer) -> Timer | None:
        """Act on a due timer, see `TimerHandler.on_due`."""
        now = self._clock.now()
        try:
            stored = await self._read(timer.tenant, timer.id)
        except BatchGone:
            return await collect_garbage(self._objects, keys.batch(timer.tenant, timer.id), timer, now)
        except BatchNotFound:
            # A slow submission, or a repeat of it, may still commit the draft.
            if now - timer.armed_at < ABANDONED:
                return timer
            await confirm_absence(self._objects, keys.batch(timer.tenant, timer.id))
            return None
        record = stored.record
        if record.timer != timer.key and now - timer.armed_at < YOUNG:
            return timer  # the commit that names it may be in flight
        # Each of these commits something, which also fences the paused writer of a timer that no version names.
        if not record.is_open and now >= record.created_at + ABANDONED:
            await self._abandon(stored)
        elif not record.is_open:
            await self._advance(stored, record)
        elif now >= record.expires_at and not record.awaits_its_end:
            await self._remove(stored)
        elif not record.is_reconciled:
            await self._reconcile(stored)
        else:
            await self._finish(stored)
        return None

    async def _reconcile(self, stored: StoredBatch) -> None:
        """Publish and cancel the jobs that the process which opened or cancelled the batch may have left."""
        record = stored.record
        await self._index.put(index_keys(record))
        await map_bounded(record.job_ids, lambda job_id: self._publish_again(record.tenant, job_id))
        if record.cancel_requested_at is not None:
            await self._cancel_jobs(record)
        await self._advance(stored, record.model_copy(update={"is_reconciled": True}))

    async def _reconciled(self, stored: StoredBatch) -> StoredBatch:
        """Mark the batch as reconciled; return it unchanged if another writer was first, which then reconciles it."""
        try:
            return await self._advance(stored, stored.record.model_copy(update={"is_reconciled": True}))
        except PreconditionFailed:
            return stored

    async def _finish(self, stored: StoredBatch) -> None:
        """Commit the batch's event if every job has ended; check again later if not."""
        record, now = stored.record, self._clock.now()
        if record.awaits_its_end and record.webhook_url is not None:
            statuses = (await self.statuses(record)).values()
            ended = sum(status is None or status.is_terminal for status in statuses)
            if ended < len(statuses):
                await self._advance(stored, record.checked(ended))  # commits a timer for the next check
                return
            # The outbox entry comes before the commit of the event, which a crash could otherwise leave undelivered.
            await self._objects.put(OutboxEntry(now, endpoint_of(record.webhook_url), record.finish).key, b"")
            record = record.model_copy(update={"finished_at": now})
        await self._advance(stored, record)

    async def _check_end(self, tenant: str, batch_id: str) -> None:
        """Commit the event of a batch whose jobs all seem to have ended. Its timer's handler may be first."""
        stored = await self._read(tenant, batch_id)
        if stored.record.is_open and stored.record.is_reconciled and stored.record.awaits_its_end:
            await self._finish(stored)

    async def _publish_again(self, tenant: str, job_id: str) -> None:
        try:
            await self._jobs.publish((await self._jobs.read(tenant, job_id)).record)
        except JobNotFound as missing:
            # A job that is not published has neither a queue key nor a timer.
            await self._jobs.confirm_missing(tenant, job_id, missing)

    async def _abandon(self, stored: StoredBatch) -> None:
        """Delete a draft and its jobs."""
        # The state comes first so that a slow process can no longer open the batch. The record goes last: only it
        # names the jobs, and a crash in between must not lose them.
        stored = await self._change(stored, lambda record: record.moved("abandoned"), within=CANCELLED_WITHIN)
        record = stored.record
        if record.is_open:
            return
        await map_bounded(
            record.job_ids, lambda job_id: self._remover.discard(record.tenant, job_id, record.created_at)
        )
        await self._leave_tombstone(stored)

    async def _remove(self, stored: StoredBatch) -> None:
        record, now = stored.record, self._clock.now()
        if any(await map_bounded(record.job_ids, lambda job_id: self._status(record.tenant, job_id))):
            await self._advance(stored, record, due=now + CHECK_AGAIN)
        elif record.finished_at is not None and not await self._deliveries.is_over([record.finish]):
            # The event is rendered from the record, so the batch is kept until its delivery has ended.
            await self._advance(stored, record, due=now + EVENTS_PENDING)
        else:
            await self._leave_tombstone(stored)

    async def _leave_tombstone(self, stored: StoredBatch) -> None:
        """Replace the record by a tombstone and delete the batch's other objects, dead letters included."""
        record, key, now = stored.record, keys.batch(stored.record.tenant, stored.record.batch_id), self._clock.now()
        letters = await self._deliveries.dead_letters_of([record.finish])
        tombstone = Tombstone(gone_at=now, index_keys=tuple({*letters, record.timer, list_key(record)} - {""}))
        timer = end_timer(tombstone, "batch", record.tenant, record.batch_id)
        await self._objects.put(timer.key, b"")
        # From here on no late writer can change the batch, so the rest can be deleted.
        await self._objects.replace(key, tombstone.to_json(), etag=stored.etag)
        await collect_garbage(self._objects, key, timer, now)

    async def _cancel_jobs(self, record: BatchRecord) -> None:
        unfinished = [
            job_id for job_id, status in (await self.statuses(record)).items() if status and not status.is_terminal
        ]
        await map_bounded(unfinished, lambda job_id: self._cancel_job(record.tenant, job_id))

    async def _cancel_job(self, tenant: str, job_id: str) -> None:
        now = self._clock.now()
        try:
            await self._jobs.evolve(tenant, job_id, lambda record: record.cancel(now=now))
        except JobNotFound as missing:  # removed meanwhile
            await self._jobs.confirm_missing(tenant, job_id, missing)

    async def _status(self, tenant: str, job_id: str) -> Status | None:
        try:
            return (await self._jobs.read(tenant, job_id)).record.status
        except JobNotFound as missing:
            await self._jobs.confirm_missing(tenant, job_id, missing)
            return None

    async def _listed(self, record: BatchRecord) -> dict[str, list[Status]]:
        """Return the statuses in the index keys of each job."""
        listed: dict[str, list[Status]] = {job_id: [] for job_id in record.job_ids}
        async for page in all_keys(self._objects, members_prefix(record.tenant, record.batch_id)):
            for entry in map(MemberEntry.parse, page):
                if entry.job_id in listed:
                    listed[entry.job_id].append(Status(entry.status))
        return listed

    async def _read(self, tenant: str, batch_id: str) -> StoredBatch:
        try:
            stored = await self._objects.get(keys.batch(tenant, batch_id))
        except ObjectNotFound:
            raise BatchNotFound(batch_id) from None
        if (tombstone := Tombstone.parse(stored.head.key, stored.body)) is not None:
            raise BatchGone(batch_id, tombstone.gone_at)
        return StoredBatch(read_as(BatchRecord, stored.head.key, stored.body), stored.head.etag)

    async def _change(
        self, stored: StoredBatch, change: Callable[[BatchRecord], BatchRecord], *, within: timedelta
    ) -> StoredBatch:
        """Apply `change` and commit it. `within`: time after which the timer's handler completes the change."""
        tenant, batch_id = stored.record.tenant, stored.record.batch_id

        async def write(found: StoredBatch) -> StoredBatch:
            changed = change(found.record)
            if changed == found.record:
                return found
            return await self._advance(found, changed, due=self._clock.now() + within)

        return await compare_and_swap(f"batch {batch_id}", lambda: self._read(tenant, batch_id), write, at_hand=stored)

    async def _advance(self, stored: StoredBatch, changed: BatchRecord, *, due: datetime | None = None) -> StoredBatch:
        """Commit `changed` with a new timer. Raises `PreconditionFailed` if another writer was first."""
        now = self._clock.now()
        # The new timer precedes the commit and the old one outlives it, so the one that the record names always exists.
        timer = _timer(changed, due or self._due(changed), now=now)
        await self._index.put({timer.key} | (index_keys(changed) - index_keys(stored.record)))
        changed = changed.model_copy(update={"rev": stored.record.rev + 1, "timer": timer.key})
        try:
            committed = await self._commit(changed, etag=stored.etag)
        except PreconditionFailed:
            await self._index.delete({timer.key})  # no version will name it
            raise
        await self._index.delete({stored.record.timer} - {""})
        return committed

    def _due(self, record: BatchRecord) -> datetime:
        now = self._clock.now()
        if not record.is_open:
            return max(now, record.created_at + ABANDONED)
        if not record.is_reconciled:
            return now
        if record.awaits_its_end:
            shortest = FINISHED_WITHIN if now < record.expires_at else FINISHED_EXPIRED
            doubled: int = 2 ** min(record.checks_without_end, DOUBLINGS)
            return now + min(FINISHED_LATE, shortest * doubled)
        return record.expires_at

    async def _commit(self, record: BatchRecord, *, etag: str | None) -> StoredBatch:
        return StoredBatch(*await commit(self._objects, keys.batch(record.tenant, record.batch_id), record, etag=etag))


def _timer(record: BatchRecord, due: datetime, *, now: datetime) -> Timer:
    is_settled = record.is_open and record.is_reconciled and not record.awaits_its_end
    lane: Lane = "retained" if is_settled else "active"
    return Timer.new(due, "batch", record.tenant, record.batch_id, armed_at=now, lane=lane)

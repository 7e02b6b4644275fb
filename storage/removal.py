"""Removes jobs: expired ones, and those whose submission died before its commit.

A conditional write replaces the record by a tombstone: from then on the API answers 410, and no late writer can
recreate the job. Then everything below its prefix is deleted, and its index keys. A timer is written before the
tombstone, so that the reaper completes a removal that was interrupted.
"""

from datetime import datetime

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.bucket.records import compare_and_swap
from storage.clock import Clock
from storage.errors import JobGone, JobNotFound, PreconditionFailed
from storage.index_keys import ListEntry, members_prefix
from storage.jobs.index import event_ref, index_keys, list_key
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import JobStore, StoredJob
from storage.timers import Timer
from storage.tombstone import Tombstone, collect_garbage
from storage.webhooks.deliveries import DeliveryStore


class JobRemover:
    def __init__(self, jobs: JobStore, deliveries: DeliveryStore, objects: ObjectStore, clock: Clock) -> None:
        self._jobs = jobs
        self._deliveries = deliveries
        self._objects = objects
        self._clock = clock

    async def purge(self, stored: StoredJob) -> None:
        """Remove a finished job now. Raises `PreconditionFailed` if it changed meanwhile."""
        record = stored.record
        index = {*index_keys(record), list_key(record), record.timer, *await self._member_keys(record)} - {""}
        index |= {*await self._deliveries.dead_letters_of(event_ref(record, event) for event in record.events)}
        await self._bury(record.tenant, record.job_id, index, etag=stored.etag)

    async def is_free_to_go(self, record: JobRecord) -> bool:
        """Whether the job has ended and each of its events was delivered or given up."""
        # Events are rendered from the record, so it must exist until then.
        return record.status.is_terminal and await self._deliveries.is_over(
            event_ref(record, event) for event in record.events
        )

    async def discard(self, tenant: str, job_id: str, created_at: datetime) -> None:
        """Remove a job of an abandoned batch, whether it was written or not. No worker can find such a job.

        Raises `PreconditionFailed` if it was not found and exists.
        """
        try:
            await compare_and_swap(f"job {job_id}", lambda: self._jobs.read(tenant, job_id), self.purge)
        except JobGone:  # removed already
            pass
        except JobNotFound:
            # A job that exists all the same would be left without its batch, so it is removed at the next sweep.
            await self._bury(tenant, job_id, _first_rows(tenant, job_id, created_at), etag=None)

    async def remove_unaccepted(self, tenant: str, job_id: str, created_at: datetime) -> None:
        """Delete the objects of a submission that never committed. A job that exists is kept."""
        try:
            await self._bury(tenant, job_id, _first_rows(tenant, job_id, created_at), etag=None)
        except PreconditionFailed:
            return

    async def delete_rows_of(self, timer: Timer, record: JobRecord) -> None:
        """Delete the index keys of a second submission of this job, which lost the race for the record."""
        rows = _first_rows(timer.tenant, timer.id, timer.armed_at)
        await self._objects.delete(*rows - {list_key(record), *index_keys(record)})

    async def collect_garbage(self, timer: Timer) -> Timer | None:
        """Delete the remaining objects of a removed job; return the timer of its tombstone's expiry."""
        key = keys.record(timer.tenant, timer.id)
        return await collect_garbage(self._objects, key, timer, self._clock.now())

    async def _bury(self, tenant: str, job_id: str, index: set[str], *, etag: str | None) -> None:
        """Write the tombstone over the version of `etag`, or create it if `etag` is None; then delete the rest."""
        key, now = keys.record(tenant, job_id), self._clock.now()
        tombstone = Tombstone(gone_at=now, index_keys=tuple(sorted(index)))
        timer = Timer.new(now, "job", tenant, job_id, armed_at=now)
        await self._objects.put(timer.key, b"")
        try:
            if etag is None:
                await self._objects.create(key, tombstone.to_json())
            else:
                await self._objects.replace(key, tombstone.to_json(), etag=etag)
        except PreconditionFailed:
            # A timer left behind would make the next sweep fence the record, which delays the next removal.
            await self._objects.delete(timer.key)
            raise
        if (again := await self.collect_garbage(timer)) is not None:
            await self._objects.put(again.key, b"")
        await self._objects.delete(timer.key)

    async def _member_keys(self, record: JobRecord) -> tuple[str, ...]:
        """List the job's index keys in its batch. A stale one would report the removed job as present."""
        if record.batch_id is None:
            return ()
        return (await self._objects.list(members_prefix(record.tenant, record.batch_id) + record.job_id)).keys


def _first_rows(tenant: str, job_id: str, created_at: datetime) -> set[str]:
    """Return the list rows that a submission writes."""
    # The queue key cannot be rebuilt from the time alone; claims delete it when it is stale.
    return {
        ListEntry(created_at, job_id, None).key(tenant, None),
        ListEntry(created_at, job_id, 0).key(tenant, Status.QUEUED),
    }

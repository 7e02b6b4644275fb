"""Rules of the design, each broken on purpose, which the simulation must detect."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

from storage.batch_record import StoredBatch
from storage.batches import BatchStore
from storage.errors import AttemptFenced
from storage.index_keys import EventRef, OutboxEntry, QueueEntry
from storage.index_writer import IndexWriter
from storage.jobs.index import index_keys
from storage.jobs.models import Lease
from storage.jobs.queue import Candidate, JobQueue
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import JobStore, StoredJob
from storage.timers import Timer
from storage.webhooks.deliveries import Delivery, DeliveryStore, StoredDelivery
from tests.simulation.process import ProcessStore
from workers.attempt import Attempt
from workers.loop import WorkerLoop
from workers.outputs.uploads import OutputUploads

LATE_S = 16.0

Mutation = Callable[[], AbstractContextManager[Any]]

_NO_HOLDER = Lease(worker="", expires_at=datetime(2000, 1, 1, tzinfo=UTC))


def no_attempt_check() -> AbstractContextManager[Any]:
    """An attempt that lost the job may still write."""
    return patch.object(JobRecord, "_held_by", lambda record, _: record.lease or _NO_HOLDER)


def no_lease_check() -> AbstractContextManager[Any]:
    """The reaper takes a job from its worker regardless of the lease."""
    return patch.object(JobRecord, "has_lost_its_worker", lambda record, _: record.status is Status.RUNNING)


def timer_after_the_commit() -> AbstractContextManager[Any]:
    """The timer and the index keys are written after the commit that needs them."""

    async def replace(
        store: JobStore, stored: StoredJob, changed: JobRecord, timer_key: str, written: Collection[str] = ()
    ) -> StoredJob:
        before = stored.record
        changed = changed.model_copy(update={"rev": before.rev + 1, "timer": timer_key})
        committed = await store._commit(changed, etag=stored.etag)
        await store._index.put({timer_key, *index_keys(changed)} - {*written})
        await store._index.delete({before.timer, *index_keys(before)} - {timer_key, *index_keys(changed)})
        return committed

    return patch.object(JobStore, "_replace", replace)


def no_first_timer() -> AbstractContextManager[Any]:
    """A submission that died half-way has no timer that brings the reaper to it."""
    put = IndexWriter.put

    async def untimed(writer: IndexWriter, keys: Collection[str]) -> None:
        is_new = any("/index/all/" in key for key in keys)
        await put(writer, [key for key in keys if not (is_new and key.startswith("timers/"))])

    return patch.object(IndexWriter, "put", untimed)


def re_armed_after_the_delete() -> AbstractContextManager[Any]:
    """The old timer is deleted first, and the new timer is written after the commit that names it."""

    async def advance(store: BatchStore, stored: StoredBatch, changed: Any, *, due: datetime | None = None) -> Any:
        await store._objects.delete(stored.record.timer)
        timer = Timer.new(
            due or store._due(changed), "batch", changed.tenant, changed.batch_id, armed_at=store._clock.now()
        )
        changed = changed.model_copy(update={"rev": stored.record.rev + 1, "timer": timer.key})
        committed = await store._commit(changed, etag=stored.etag)
        await store._objects.put(timer.key, b"")
        return committed

    return patch.object(BatchStore, "_advance", advance)


def no_reconcile() -> AbstractContextManager[Any]:
    """The handler of a batch's timer does not finish the work of the process that opened the batch."""

    async def unreconciled(store: BatchStore, stored: StoredBatch) -> None:
        await store._advance(stored, stored.record.model_copy(update={"is_reconciled": True}))

    return patch.object(BatchStore, "_reconcile", unreconciled)


def no_fence() -> AbstractContextManager[Any]:
    """Orphaned keys are deleted without a fence, so that a paused writer still commits the record that they belong to.

    The commit of each job's end is delayed: see `no_invalidation`.
    """
    commit, paused = JobStore._commit, set[str]()

    async def unfenced(store: JobStore, stored: StoredJob, due: datetime) -> StoredJob:
        return stored

    async def late(store: JobStore, record: JobRecord, *, etag: str | None) -> StoredJob:
        if record.status.is_terminal and record.job_id not in paused:
            paused.add(record.job_id)
            await asyncio.sleep(LATE_S)
        return await commit(store, record, etag=etag)

    return patch.multiple(JobStore, rearm=unfenced, _commit=late)


def index_key_trusted() -> AbstractContextManager[Any]:
    """A queue key is trusted as proof of a queued job, and the record is overwritten without comparing its version."""
    read = JobStore.read_with_workflow

    async def trusting(queue: JobQueue, entry: QueueEntry, claimant: Any) -> StoredJob | None:
        stored = await read(queue._jobs, entry.tenant, entry.job_id)
        trusted = stored.record.model_copy(
            update={"status": Status.QUEUED, "attempt": entry.attempt, "completed_at": None, "lease": None}
        )
        claim = trusted.claim(worker=claimant.worker, now=queue._clock.now(), lease_s=queue._lease_s)
        return await queue._jobs.advance(stored, claim)

    return patch.object(JobQueue, "_try", trusting)


def no_rev() -> AbstractContextManager[Any]:
    """A record's version number never changes."""
    numbered = JobStore._commit

    async def unnumbered(store: JobStore, record: JobRecord, *, etag: str | None) -> StoredJob:
        return await numbered(store, record.model_copy(update={"rev": 0}), etag=etag)

    return patch.object(JobStore, "_commit", unnumbered)


def no_condition() -> AbstractContextManager[Any]:
    """The last writer wins."""
    conditional = ProcessStore.replace

    async def overwrite(objects: ProcessStore, key: str, body: bytes, *, etag: str, **options: Any) -> str:
        return await conditional(objects, key, body, etag=objects._bucket._entries[key].etag, **options)

    return patch.object(ProcessStore, "replace", overwrite)


def no_invalidation() -> AbstractContextManager[Any]:
    """An outbox entry that is newer than its delivery is deleted, and a replay still commits it.

    The first commit of each replay is delayed for longer than the deliverer waits between sweeps, because by chance the
    fault would show in one of hundreds of courses. The pause itself violates no invariant.
    """
    commit, paused = DeliveryStore._commit, set[EventRef]()

    async def unchanged(store: DeliveryStore, stored: StoredDelivery, entry: OutboxEntry) -> StoredDelivery:
        return stored

    async def late(store: DeliveryStore, record: Delivery, *, etag: str | None) -> StoredDelivery:
        is_replay = record.outbox_entry is not None and record.lease_until is None and record.tries == 0
        if is_replay and record.ref not in paused:
            paused.add(record.ref)
            await asyncio.sleep(LATE_S)
        return await commit(store, record, etag=etag)

    return patch.multiple(DeliveryStore, invalidate=unchanged, _commit=late)


def no_restart_after_a_fence() -> AbstractContextManager[Any]:
    """A worker whose job was taken over claims the next one while the prompt of the lost job may still run."""

    async def execute(worker: WorkerLoop, attempt: Attempt) -> bool:
        try:
            await attempt.execute()
        except AttemptFenced:
            return False
        return True

    return patch.object(WorkerLoop, "_execute", execute)


def claimed_ahead() -> AbstractContextManager[Any]:
    """The next job is claimed as soon as it is read, and outlives whatever happens to the one that runs."""
    read, claim = JobQueue.candidate, JobQueue.take

    async def candidate(queue: JobQueue, entries: list[QueueEntry]) -> Candidate | None:
        found, objects = await read(queue, entries), queue._objects
        assert isinstance(objects, ProcessStore)
        taken = None if found is None else await claim(queue, found, objects._process.name)
        return None if found is None or taken is None else replace(found, stored=taken)

    async def take(queue: JobQueue, held: Candidate, worker: str, runtime: Any = None) -> StoredJob | None:
        return held.stored

    return patch.multiple(JobQueue, candidate=candidate, take=take)


def folders_emptied_too_early() -> AbstractContextManager[Any]:
    """The engine's folders are emptied for the next job before the outputs of the last one were fetched."""

    async def at_once(uploads: OutputUploads) -> None:
        """Wait for nothing."""

    return patch.multiple(OutputUploads, fetched=at_once, stop_fetching=at_once)


def prepared_job_is_kept() -> AbstractContextManager[Any]:
    """The prepared job runs next, although a job of higher priority was seen meanwhile."""
    return patch("workers.lookahead._is_still_best", lambda *_: True)


def outbox_entries_share_a_key() -> AbstractContextManager[Any]:
    """The next outbox entry of an event may have the key of the entry that is deleted after it."""

    def shared(entry: OutboxEntry) -> str:
        due = entry.due.replace(microsecond=0, second=0)
        key: str = _KEY(replace(entry, due=due, generation=0))
        return key

    return patch.object(OutboxEntry, "key", property(shared))


_KEY = OutboxEntry.key.fget  # type: ignore[attr-defined]  # a property, read from the class


MUTATIONS: tuple[Mutation, ...] = (
    no_attempt_check,
    no_lease_check,
    timer_after_the_commit,
    no_first_timer,
    re_armed_after_the_delete,
    no_reconcile,
    no_fence,
    index_key_trusted,
    no_rev,
    no_condition,
    no_invalidation,
    outbox_entries_share_a_key,
    claimed_ahead,
    no_restart_after_a_fence,
    folders_emptied_too_early,
    prepared_job_is_kept,
)

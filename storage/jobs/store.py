"""The job store: job.json is the only source of truth; its timer and index keys are derived from it.

Every change is a conditional write on the record's ETag. The timer and the index keys of a version are written before
its commit, and those of the previous version are deleted after it, so a crash leaves an extra key, never a missing
one. A removed job is replaced by a tombstone for a while (`storage.removal`).
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from pydantic import TypeAdapter

from storage import keys
from storage.bucket.budget import current_owner
from storage.bucket.objects import ObjectStore, StoredObject, all_keys, confirm_absence, is_absent
from storage.bucket.records import commit, compare_and_swap, read_as
from storage.clock import Clock
from storage.concurrency import gather
from storage.errors import (
    AssetNotFound,
    JobGone,
    JobNotFound,
    ObjectNotFound,
    PreconditionFailed,
    StorageError,
    StorageUnavailable,
)
from storage.fair_slots import FairSlots
from storage.index_writer import IndexWriter
from storage.jobs.filters import JobFilter
from storage.jobs.index import index_keys, list_key
from storage.jobs.models import Input, InputFile
from storage.jobs.pages import MOST_SCANNED, JobPages
from storage.jobs.record import JobRecord, Status
from storage.jobs.timers import YOUNG, KeysAhead, job_timer, timer_key, with_first_timer
from storage.pages import Page
from storage.signal import OUTBOX_TOPIC, Signal, job_topic, queue_topic
from storage.timers import Timer
from storage.tombstone import Tombstone
from workflows.json_weight import weight

logger = logging.getLogger(__name__)

LARGE_RECORD = 64 * 1024
"""Weight above which a record is parsed in turn: 1 MiB takes some 10 ms, in which the event loop does nothing else."""

Row = TypeVar("Row")
Change = Callable[[JobRecord], JobRecord]
Extras = Mapping[str, bytes]
"""Small objects that belong to a job, by key: long inputs and secrets."""
NO_EXTRAS: Extras = {}
Source = Path | str
"""Where an input file comes from: a local file, or the key of an object, which is copied within the bucket."""
Uploads = Mapping[InputFile, Source]
"""The input files that are stored with the job."""
NO_UPLOADS: Uploads = {}
EVERY_JOB = JobFilter()
JOB_ENDED = "job ended"
"""The message that is logged at the end of each job."""
_INPUTS = TypeAdapter(tuple[Input, ...])


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A record and the ETag under which it was read or written. `workflow` is set if it was read with the record."""

    record: JobRecord
    etag: str
    workflow: bytes | None = field(default=None, compare=False)


class JobStore:
    def __init__(self, objects: ObjectStore, clock: Clock, signal: Signal) -> None:
        self._objects = objects
        self._clock = clock
        self._signal = signal
        self._index = IndexWriter(objects)
        self._pages = JobPages(objects, clock, self._index, self._record, self.is_missing)
        self._parsing = FairSlots(1)
        self._in_use = WeakValueDictionary[tuple[str, str], JobRecord]()
        """Parsed records by key and ETag. The readers of one version share one: a thousand requests may hold it."""
        self.on_batch_job_ended: Callable[[JobRecord], Coroutine[Any, Any, None]] | None = None
        """Called in the background after the commit of the end of a job whose batch has a receiver."""

    async def settled(self) -> None:
        """Wait for the background deletions that follow this store's commits."""
        await self._index.settled()

    async def create(
        self, record: JobRecord, *, workflow: bytes, uploads: Uploads = NO_UPLOADS, extras: Extras = NO_EXTRAS
    ) -> StoredJob:
        """Accept a job, which is durable on return. Raises `PreconditionFailed` if a job with this id exists."""
        return await self.accept(await self.prepare(record, workflow=workflow, uploads=uploads, extras=extras))

    async def prepare(
        self, record: JobRecord, *, workflow: bytes, uploads: Uploads = NO_UPLOADS, extras: Extras = NO_EXTRAS
    ) -> JobRecord:
        """Store everything but the record, and return the record for `accept`.

        A job without files and secrets takes one round of requests. A process that is killed during it may leave a
        workflow behind, and nothing else. Raises `AssetNotFound`.
        """
        record = with_first_timer(record)
        if uploads or extras:
            # The timer comes first: its handler deletes the files and secrets of a job that is never accepted.
            await self._index.put({record.timer})
            await self._store_parts(record, workflow, uploads, extras)
            # The queue key comes last: each claim of the pool reads it, and copies take long and may fail.
            await self._index.put(_all_keys(record) - {record.timer})
            return record
        try:
            await gather(self._index.put(_all_keys(record)), self._put_workflow(record, workflow))
        except StorageError:
            # The timer may be missing, and its handler deletes the workflow. It is not deleted here: a repeat of the
            # request may be storing the same job.
            self._index.soon(self._index.put({record.timer}))
            raise
        return record

    async def accept(self, record: JobRecord) -> StoredJob:
        """Commit a prepared job. Raises `PreconditionFailed` if a job with this id exists."""
        if Timer.parse(record.timer).due <= self._clock.now():
            # The reaper may have moved the timer of a slow submission.
            record = record.model_copy(update={"timer": job_timer(record, record.due_at, now=self._clock.now()).key})
            await self._index.put({record.timer})
        try:
            stored = await self._commit(record, etag=None)
        except PreconditionFailed:
            self._index.delete_soon({record.timer})  # no version will name it
            raise
        if self._clock.now() - record.created_at > YOUNG / 2:
            # After a slow submission a reader may have deleted the index keys as stale.
            await self.publish(record)
        self._signal.ring(queue_topic(record.pool))
        self._ring_if_due(record)
        return stored

    def discard_prepared(self, record: JobRecord) -> None:
        """Delete a prepared job that no request will accept, in the background.

        Of one whose preparation failed, give the record without a timer.
        """
        self._index.soon(self._discard(record))

    async def _discard(self, record: JobRecord) -> None:
        """Delete all objects of a job that was not accepted."""
        await self._objects.delete(*sorted({*index_keys(record), list_key(record)}))
        async for page in all_keys(self._objects, keys.job_prefix(record.tenant, record.job_id)):
            await self._objects.delete(*page)
        if record.timer:  # else a failed write may still take effect, and the timer's handler deletes it
            await self._objects.delete(record.timer)  # last: after a crash before this, its handler deletes the rest

    async def create_unpublished(
        self, record: JobRecord, *, workflow: bytes, uploads: Uploads = NO_UPLOADS, extras: Extras = NO_EXTRAS
    ) -> StoredJob:
        """Store a job of a batch without its index keys and timer, which `publish` writes."""
        record = with_first_timer(record)
        await self._store_parts(record, workflow, uploads, extras)
        return await self._commit(record, etag=None)

    async def publish(self, record: JobRecord) -> None:
        """Write the timer and the index keys of a stored job. The call is idempotent, and `record` may be outdated."""
        await self._index.put(_all_keys(record))
        self._signal.ring(queue_topic(record.pool))
        self._ring_if_due(record)

    async def _store_parts(self, record: JobRecord, workflow: bytes, uploads: Uploads, extras: Extras) -> None:
        large = (store_input(self._objects, file, source) for file, source in uploads.items())
        small = (self._objects.put(key, body) for key, body in extras.items())
        await gather(self._put_workflow(record, workflow), *small, *large)

    async def _put_workflow(self, record: JobRecord, workflow: bytes) -> None:
        await self._objects.put(keys.workflow(record.tenant, record.job_id), workflow)

    async def read(self, tenant: str, job_id: str) -> StoredJob:
        """Read a job. Raises `JobGone` if it was removed, `JobNotFound`, or `RecordUnreadable`."""
        try:
            stored = await self._objects.get(keys.record(tenant, job_id))
        except (ObjectNotFound, ValueError):  # ValueError: the id cannot be part of a key
            raise JobNotFound(job_id) from None
        if (tombstone := Tombstone.parse(stored.head.key, stored.body)) is not None:
            raise JobGone(job_id, tombstone.gone_at)
        return StoredJob(await self._parsed(stored), stored.head.etag)

    async def is_missing(self, tenant: str, job_id: str, error: JobNotFound) -> bool:
        """Whether an error of `read` is certain: a tombstone is the reason, or a LIST finds no record either.

        Ask before a step that follows from the job's absence and cannot be undone.
        """
        if isinstance(error, JobGone):
            return True
        try:
            key = keys.record(tenant, job_id)
        except ValueError:  # the id cannot be part of a key
            return True
        return await is_absent(self._objects, key)

    async def confirm_missing(self, tenant: str, job_id: str, error: JobNotFound) -> None:
        """Raise `StorageUnavailable` unless an error of `read` is certain, see `is_missing`."""
        if not await self.is_missing(tenant, job_id, error):
            raise StorageUnavailable(f"the bucket lists job {job_id} and does not find it") from error

    async def _parsed(self, stored: StoredObject) -> JobRecord:
        """Parse a record. The event loop runs between two large ones, and tenants take turns."""
        if weight(stored.body) <= LARGE_RECORD:
            return self._record_of(stored)
        # A thread would not help: the parser holds the GIL.
        async with self._parsing.slot(current_owner()):
            record = self._record_of(stored)
            await asyncio.sleep(0)
            return record

    def _record_of(self, stored: StoredObject) -> JobRecord:
        version = (stored.head.key, stored.head.etag)
        record = self._in_use.get(version)
        if record is None:
            record = self._in_use[version] = read_as(JobRecord, stored.head.key, stored.body)
        return record

    async def read_with_workflow(self, tenant: str, job_id: str) -> StoredJob:
        """Read a job and its workflow in one round; `workflow` is None if it cannot be read. Raises as `read`."""
        try:
            key = keys.workflow(tenant, job_id)
        except ValueError:  # the id cannot be part of a key
            raise JobNotFound(job_id) from None
        stored, workflow = await asyncio.gather(
            self.read(tenant, job_id), self._objects.get(key), return_exceptions=True
        )
        if isinstance(stored, BaseException):
            raise stored
        return stored if isinstance(workflow, BaseException) else replace(stored, workflow=workflow.body)

    async def workflow(self, tenant: str, job_id: str) -> bytes:
        """Return the graph as it was submitted. Raises as `read`."""
        try:
            key = keys.workflow(tenant, job_id)
        except ValueError:  # the id cannot be part of a key
            raise JobNotFound(job_id) from None
        return await self._part(tenant, job_id, key)

    async def editor_file(self, tenant: str, job_id: str) -> bytes | None:
        """Return the editor's file as it was submitted, or None for a job that was submitted as a graph.

        Raises as `read`.
        """
        stored = await self.read(tenant, job_id)
        if stored.record.workflow_format != "editor":
            return None
        return await self._part(tenant, job_id, keys.editor_file(tenant, job_id))

    async def inputs(self, record: JobRecord) -> tuple[Input, ...]:
        """Return the values to set in the job's graph, from the record or from their own object. Raises as `read`."""
        if not record.has_values:
            return record.inputs
        key = keys.values(record.tenant, record.job_id)
        return _INPUTS.validate_json(await self._part(record.tenant, record.job_id, key))

    async def _part(self, tenant: str, job_id: str, key: str) -> bytes:
        """Return an object that is stored with each job that has it. Raises as `read`."""
        try:
            return (await self._objects.get(key)).body
        except ObjectNotFound:
            await self.read(tenant, job_id)  # raises JobGone if the job was removed
            await confirm_absence(self._objects, key)  # a worker fails a job without its parts
            raise JobNotFound(job_id) from None

    async def evolve(self, tenant: str, job_id: str, change: Change) -> StoredJob:
        """Apply `change` to the current record and commit the result. An error of `change` is passed on unwritten."""
        return await self.evolve_from(await self.read(tenant, job_id), change)

    async def evolve_from(self, stored: StoredJob, change: Change, *, ahead: KeysAhead | None = None) -> StoredJob:
        """Do as `evolve`, starting from a version already read; this saves the GET unless another writer was first."""
        tenant, job_id = stored.record.tenant, stored.record.job_id

        async def write(found: StoredJob) -> StoredJob:
            changed = change(found.record)
            return found if changed is found.record else await self.advance(found, changed, ahead=ahead)

        return await compare_and_swap(f"job {job_id}", lambda: self.read(tenant, job_id), write, at_hand=stored)

    async def page(
        self,
        tenant: str,
        row: Callable[[JobRecord], Row],
        wanted: JobFilter = EVERY_JOB,
        *,
        limit: int,
        cursor: str | None,
        scan: int = MOST_SCANNED,
    ) -> Page[Row]:
        """Return one page of a tenant's jobs, see `JobPages.page`."""
        return await self._pages.page(tenant, wanted, row, limit=limit, cursor=cursor, scan=scan)

    async def advance(self, stored: StoredJob, changed: JobRecord, *, ahead: KeysAhead | None = None) -> StoredJob:
        """Commit `changed` over exactly `stored`. Raises `PreconditionFailed` if another writer was first.

        `ahead`: keys that are already written. They are deleted if `changed` does not need them.
        """
        before = stored.record
        named, written = timer_key(before, changed, now=self._clock.now()), frozenset[str]()
        if ahead is not None and ahead.fits(changed, self._clock.now()):
            # The first try may have committed although its answer was lost; a second must not delete its timer.
            ahead.is_spent = True
            named, written = ahead.timer.key, ahead.keys
        elif ahead is not None:
            self.withdraw(ahead)
        return await self._replace(stored, changed, named, written)

    async def rearm(self, stored: StoredJob, due: datetime) -> StoredJob:
        """Commit the record unchanged with a new timer for `due`. Raises `PreconditionFailed` as `advance` does.

        This is also the fence against a paused writer: one that read the record before can no longer commit.
        """
        timer = job_timer(stored.record, due, now=self._clock.now())
        return await self._replace(stored, stored.record, timer.key)

    async def _replace(
        self,
        stored: StoredJob,
        changed: JobRecord,
        timer_key: str,
        written: Collection[str] = (),
    ) -> StoredJob:
        before = stored.record
        changed = changed.model_copy(update={"rev": before.rev + 1, "timer": timer_key})
        old, new = {before.timer, *index_keys(before)} - {""}, {timer_key, *index_keys(changed)}
        await self._index.put(new - old - {*written})
        try:
            committed = await self._commit(changed, etag=stored.etag)
        except PreconditionFailed:
            # The timer's key is unique to this try. The index keys stay: the other writer may need the same ones.
            self._index.delete_soon({timer_key} - old)
            raise
        # The handler of an old timer commits an ended job again, so the partner key is also deleted after a crash here.
        self._index.delete_soon(old - new | _secrets_to_forget(changed))
        self._signal.ring(job_topic(changed.tenant, changed.job_id))
        if changed.status is Status.QUEUED:
            self._signal.ring(queue_topic(changed.pool))
        if changed.next_sequence > before.next_sequence:
            self._ring_if_due(changed)
        if changed.status.is_terminal and not before.status.is_terminal:
            _log_end(changed)
            if changed.is_batch_reported:
                self._report_end(committed.record)
        return committed

    def _report_end(self, record: JobRecord) -> None:
        if self.on_batch_job_ended is not None:
            self._index.soon(self.on_batch_job_ended(record))

    async def write_end_ahead(self, record: JobRecord) -> KeysAhead:
        """Write the keys that the record needs if it completes soon, apart from the outbox entries of its events."""
        now = self._clock.now()
        ended = record.model_copy(update={"status": Status.COMPLETED, "completed_at": now, "events": ()})
        ahead = KeysAhead(job_timer(ended, ended.due_at, now=now), index_keys(ended))
        await self._index.put(ahead.keys)
        return ahead

    def withdraw(self, ahead: KeysAhead) -> None:
        """Delete the timer of keys that no version will use."""
        if not ahead.is_spent:
            ahead.is_spent = True
            # The index keys stay: another writer may use the same ones, and readers delete them when stale.
            self._index.delete_soon({ahead.timer.key})

    def _ring_if_due(self, record: JobRecord) -> None:
        if record.events:
            self._signal.ring(OUTBOX_TOPIC)

    async def _record(self, tenant: str, job_id: str) -> JobRecord:
        return (await self.read(tenant, job_id)).record

    async def _commit(self, record: JobRecord, *, etag: str | None) -> StoredJob:
        return StoredJob(*await commit(self._objects, keys.record(record.tenant, record.job_id), record, etag=etag))


async def store_input(objects: ObjectStore, file: InputFile, source: Source) -> None:
    """Store an input file under its key. Raises `AssetNotFound` if the object to copy has been removed."""
    if isinstance(source, Path):
        await objects.upload_file(file.key, source, content_type=file.content_type)
        return
    try:
        await objects.copy(source, file.key, content_type=file.content_type)
    except ObjectNotFound:
        raise AssetNotFound(f"the source of {file.name!r} was removed meanwhile") from None


def _log_end(record: JobRecord) -> None:
    """Log the end of a job in the process that committed it. `comfyui-modal up` prints it."""
    seconds = None
    if record.started_at is not None and record.completed_at is not None:
        seconds = round((record.completed_at - record.started_at).total_seconds(), 3)
    about = {
        "job_id": record.job_id,
        "tenant": record.tenant,
        "workflow": record.workflow_name or f"graph {record.workflow_shape}",
        "status": str(record.status),
        "error_code": record.error_code,
        "attempt": record.attempt,
        "outputs": len(record.outputs),
        "seconds": seconds,
    }
    logger.info(JOB_ENDED, extra=about)


def _secrets_to_forget(record: JobRecord) -> set[str]:
    """Return the keys of the secrets that an ended job no longer needs."""
    if not (record.status.is_terminal and record.has_partner_key):
        return set()
    return {keys.partner_key(record.tenant, record.job_id)}


def _all_keys(record: JobRecord) -> set[str]:
    return {record.timer, list_key(record), *index_keys(record)}

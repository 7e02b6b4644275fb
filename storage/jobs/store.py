"""The job store: job.json as the only truth, its timer, and the index keys that make it findable.

Every change is a conditional write on the record's ETag. The timer that a version names and its index keys are written
before the commit, and what the version before named is deleted after it, so a crash leaves a key too many, never one
too few. A removed job leaves a tombstone in its place for a while, see `storage.removal`.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import TypeAdapter

from storage import keys
from storage.bucket.conditional import commit, compare_and_swap
from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.concurrency import gather, map_bounded
from storage.errors import (
    BadCursor,
    JobGone,
    JobNotFound,
    ObjectNotFound,
    PreconditionFailed,
    RecordUnreadable,
    StorageError,
)
from storage.index_keys import LIST_ENTRY, ListEntry, list_prefix
from storage.index_writer import IndexWriter
from storage.jobs.index import index_keys, list_key, status_key
from storage.jobs.models import Input
from storage.jobs.record import JobRecord, Status
from storage.model import read_as
from storage.signal import OUTBOX_TOPIC, Signal, job_topic, queue_topic
from storage.timers import Lane, Timer
from storage.tombstone import Tombstone

logger = logging.getLogger(__name__)

YOUNG = timedelta(minutes=10)
"""An index key without a record, or a timer that its record does not name, may belong to a writer that is about to
commit; older ones are stale."""

ABANDONED = timedelta(hours=25)
"""Age at which a submission that never committed is cleared away: no repeat with its Idempotency-Key can come then."""

EARLY = timedelta(minutes=1)
"""How much earlier than needed a named timer may be due before it is replaced."""

MAX_LISTS = 4
"""LISTs that one page may cost: where more of its hints are stale, the page is short and its cursor leads on."""


Change = Callable[[JobRecord], JobRecord]
Extras = Mapping[str, bytes]
"""Small objects that belong to a job, by key: long inputs and secrets."""
NO_EXTRAS: Extras = {}
_INPUTS = TypeAdapter(tuple[Input, ...])


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A record and the ETag under which it was read or written. `workflow` is set where it was read along."""

    record: JobRecord
    etag: str
    workflow: bytes | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of a submission, to be stored under `key`."""

    key: str
    path: Path
    content_type: str


@dataclass(frozen=True, slots=True)
class JobPage:
    """Newest first. `next_cursor` is None on the last page."""

    jobs: tuple[JobRecord, ...]
    next_cursor: str | None


class JobStore:
    def __init__(self, objects: ObjectStore, clock: Clock, signal: Signal) -> None:
        self._objects = objects
        self._clock = clock
        self._signal = signal
        self._index = IndexWriter(objects)

    async def settled(self) -> None:
        """Waits for the deletions that follow this store's commits."""
        await self._index.settled()

    async def create(
        self, record: JobRecord, *, workflow: bytes, files: Sequence[LocalFile] = (), extras: Extras = NO_EXTRAS
    ) -> StoredJob:
        """Accept a job. When this returns the job is durable; `PreconditionFailed` if there is one of this id."""
        return await self.accept(await self.prepare(record, workflow=workflow, files=files, extras=extras))

    async def prepare(
        self, record: JobRecord, *, workflow: bytes, files: Sequence[LocalFile] = (), extras: Extras = NO_EXTRAS
    ) -> JobRecord:
        """Store everything but the record, which is returned for `accept`: in one round if there is only a workflow.

        Files and secrets wait until the timer is stored, which clears them away if the job is never accepted. A
        process that is killed within the one round may leave a workflow behind, and nothing else.
        """
        record = _with_first_timer(record)
        index = self._index.put(_all_keys(record))
        if files or extras:
            await index
            await self._store_parts(record, workflow, files, extras)
            return record
        try:
            await gather(index, self._put_workflow(record, workflow))
        except StorageError:
            self._index.delete_soon({keys.workflow(record.tenant, record.job_id)})  # its timer may be missing
            raise
        return record

    async def accept(self, record: JobRecord) -> StoredJob:
        """Commit a job that was prepared; `PreconditionFailed` if there is one of this id."""
        stored = await self._commit(record, etag=None)
        if self._clock.now() - record.created_at > YOUNG / 2:  # a reader may have deleted the index keys as stale
            await self.publish(record)
        self._signal.ring(queue_topic(record.pool))
        self._ring_if_due(record)
        return stored

    def discard_prepared(self, record: JobRecord) -> None:
        """Delete the index keys of a job that will not be accepted; its timer clears the rest away."""
        self._index.delete_soon({*index_keys(record), list_key(record)})

    async def create_unpublished(
        self, record: JobRecord, *, workflow: bytes, files: Sequence[LocalFile] = (), extras: Extras = NO_EXTRAS
    ) -> StoredJob:
        """A job of a batch: neither its index keys nor its timer are written before it is published."""
        record = _with_first_timer(record)
        await self._store_parts(record, workflow, files, extras)
        return await self._commit(record, etag=None)

    async def publish(self, record: JobRecord) -> None:
        """Write the timer and the index keys of a stored job. Idempotent; `record` may be outdated."""
        await self._index.put(_all_keys(record))
        self._signal.ring(queue_topic(record.pool))
        self._ring_if_due(record)

    async def _store_parts(
        self, record: JobRecord, workflow: bytes, files: Sequence[LocalFile], extras: Extras
    ) -> None:
        uploads = (self._objects.upload_file(f.key, f.path, content_type=f.content_type) for f in files)
        small = (self._objects.put(key, body) for key, body in extras.items())
        await gather(self._put_workflow(record, workflow), *small, *uploads)

    async def _put_workflow(self, record: JobRecord, workflow: bytes) -> None:
        await self._objects.put(keys.workflow(record.tenant, record.job_id), workflow)

    async def read(self, tenant: str, job_id: str) -> StoredJob:
        """`JobGone` if it was removed, `JobNotFound` if there is none, `RecordUnreadable`."""
        try:
            stored = await self._objects.get(keys.record(tenant, job_id))
        except (ObjectNotFound, ValueError):
            raise JobNotFound(job_id) from None
        if (tombstone := Tombstone.parse(stored.body)) is not None:
            raise JobGone(job_id, tombstone.gone_at)
        return StoredJob(read_as(JobRecord, stored.head.key, stored.body), stored.head.etag)

    async def read_with_workflow(self, tenant: str, job_id: str) -> StoredJob:
        """As `read`, with the workflow, in one round; None in its place if it cannot be read."""
        stored, workflow = await asyncio.gather(
            self.read(tenant, job_id), self._objects.get(keys.workflow(tenant, job_id)), return_exceptions=True
        )
        if isinstance(stored, BaseException):
            raise stored
        return stored if isinstance(workflow, BaseException) else replace(stored, workflow=workflow.body)

    async def workflow(self, tenant: str, job_id: str) -> bytes:
        """The graph as it was submitted; errors as of `read`."""
        try:
            return (await self._objects.get(keys.workflow(tenant, job_id))).body
        except (ObjectNotFound, ValueError):
            await self.read(tenant, job_id)
            raise JobNotFound(job_id) from None

    async def inputs(self, record: JobRecord) -> tuple[Input, ...]:
        """The values to set in its graph, wherever they lie; errors as of `read`."""
        if not record.has_values:
            return record.inputs
        try:
            stored = await self._objects.get(keys.values(record.tenant, record.job_id))
        except ObjectNotFound:
            await self.read(record.tenant, record.job_id)
            raise JobNotFound(record.job_id) from None
        return _INPUTS.validate_json(stored.body)

    async def evolve(self, tenant: str, job_id: str, change: Change) -> StoredJob:
        """Apply `change` to the present record and commit it; what `change` raises is raised, nothing written."""
        return await self.evolve_from(await self.read(tenant, job_id), change)

    async def evolve_from(self, stored: StoredJob, change: Change, *, ahead: "KeysAhead | None" = None) -> StoredJob:
        """As `evolve`, from a version that is at hand: saves the GET where no one else wrote meanwhile."""
        tenant, job_id = stored.record.tenant, stored.record.job_id

        async def write(found: StoredJob) -> StoredJob:
            changed = change(found.record)
            return found if changed is found.record else await self.advance(found, changed, ahead=ahead)

        return await compare_and_swap(f"job {job_id}", lambda: self.read(tenant, job_id), write, at_hand=stored)

    async def page(self, tenant: str, *, status: Status | None, limit: int, cursor: str | None) -> JobPage:
        """One LIST and one GET a row; further LISTs only where stale hints left the page short, and few of them."""
        prefix = list_prefix(tenant, status)
        after = _decode_cursor(prefix, cursor)
        found: list[JobRecord] = []
        for _ in range(MAX_LISTS):
            listed = await self._objects.list(prefix, after=after, limit=limit - len(found))
            found += await self._rows(tenant, status, listed.keys)
            if not listed.more or not listed.keys:
                return JobPage(tuple(found), None)
            after = listed.keys[-1]
            if len(found) >= limit:
                break
        return JobPage(tuple(found), _encode_cursor(after))

    async def advance(self, stored: StoredJob, changed: JobRecord, *, ahead: "KeysAhead | None" = None) -> StoredJob:
        """Commit `changed` over exactly `stored`; `PreconditionFailed` if another writer was first.

        `ahead`: keys that were written already. Those that do not fit are deleted.
        """
        before = stored.record
        named, written = self._timer_key(before, changed), frozenset[str]()
        if ahead is not None and self._fits(ahead, changed):
            ahead.is_spent = True  # a second try after a lost answer must not delete the timer that the first one named
            named, written = ahead.timer.key, ahead.keys
        elif ahead is not None:
            self.withdraw(ahead)
        return await self._replace(stored, changed, named, written)

    async def rearm(self, stored: StoredJob, due: datetime) -> StoredJob:
        """Commit the record unchanged, with a timer of this time; `PreconditionFailed` as in `advance`."""
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
            self._index.delete_soon({timer_key} - old)  # no version will name it
            raise
        self._index.delete_soon(old - new)
        self._signal.ring(job_topic(changed.tenant, changed.job_id))
        if changed.status is Status.QUEUED:
            self._signal.ring(queue_topic(changed.pool))
        if changed.next_sequence > before.next_sequence:
            self._ring_if_due(changed)
        return committed

    async def write_end_ahead(self, record: JobRecord) -> "KeysAhead":
        """The keys that the record will need if it completes soon; without those of its events."""
        now = self._clock.now()
        ended = record.model_copy(update={"status": Status.COMPLETED, "completed_at": now, "events": ()})
        ahead = KeysAhead(job_timer(ended, ended.due_at, now=now), index_keys(ended))
        await self._index.put(ahead.keys)
        return ahead

    def withdraw(self, ahead: "KeysAhead") -> None:
        """Delete a timer that no version will name. The index keys may be another writer's: readers delete them."""
        if not ahead.is_spent:
            ahead.is_spent = True
            self._index.delete_soon({ahead.timer.key})

    def _fits(self, ahead: "KeysAhead", changed: JobRecord) -> bool:
        """A timer that is older than this may have been deleted as a paused writer's."""
        is_young = self._clock.now() - ahead.timer.armed_at < YOUNG / 2
        return not ahead.is_spent and is_young and _is_early_enough(ahead.timer.due, changed)

    def _timer_key(self, before: JobRecord, changed: JobRecord) -> str:
        """The present timer, or that of the new state."""
        due = Timer.parse(before.timer).due if before.timer else None
        is_kept = changed.status is before.status or changed.status is Status.RUNNING
        if due is not None and is_kept and _is_early_enough(due, changed):
            return before.timer
        return job_timer(changed, changed.due_at, now=self._clock.now()).key

    def _ring_if_due(self, record: JobRecord) -> None:
        if record.events:
            self._signal.ring(OUTBOX_TOPIC)

    async def fence(self, stored: StoredJob) -> StoredJob:
        """Rewrite the record unchanged: a paused writer that read it before can no longer commit."""
        record = stored.record
        return await self._commit(record.model_copy(update={"rev": record.rev + 1}), etag=stored.etag)

    async def _rows(self, tenant: str, status: Status | None, index_keys: Sequence[str]) -> list[JobRecord]:
        rows = await map_bounded(index_keys, lambda key: self._row(tenant, status, key))
        return [row for row in rows if row is not None]

    async def _row(self, tenant: str, status: Status | None, key: str) -> JobRecord | None:
        """The record that an index key names; None, and the key perhaps dropped, if it is stale."""
        try:
            entry = ListEntry.parse(key)
        except ValueError:
            return None
        try:
            record = (await self.read(tenant, entry.job_id)).record
        except JobNotFound:
            if self._clock.now() - entry.created_at > YOUNG:
                await self._index.delete((key,))
            return None
        except RecordUnreadable as error:
            logger.warning("a list leaves a job out: %s", error)
            return None
        if key == (list_key(record) if status is None else status_key(record)):
            return record
        if status is None or entry.attempt is None or record.outdates(status, entry.attempt):
            await self._index.delete((key,))
        return None

    async def _commit(self, record: JobRecord, *, etag: str | None) -> StoredJob:
        return StoredJob(*await commit(self._objects, keys.record(record.tenant, record.job_id), record, etag=etag))


@dataclass(slots=True)
class KeysAhead:
    """A timer and index keys that were written before it was known whether a version will need them."""

    timer: Timer
    index: frozenset[str]
    is_spent: bool = False
    """Whether the timer was named by a try to commit, or deleted. Each try has a timer of its own."""

    @property
    def keys(self) -> frozenset[str]:
        return self.index | {self.timer.key}


def _is_early_enough(due: datetime, record: JobRecord) -> bool:
    """Never late, and not much too early. Every sweep reads a running job, so its timer may be as early as it likes."""
    return due <= record.due_at and (record.status is Status.RUNNING or record.due_at - due <= EARLY)


def job_timer(record: JobRecord, due: datetime, *, now: datetime) -> Timer:
    lane: Lane = "retained" if record.status.is_terminal else "active"
    return Timer.new(due, "job", record.tenant, record.job_id, armed_at=now, lane=lane)


def _with_first_timer(record: JobRecord) -> JobRecord:
    """Its time is that of the job, from which the index keys of a job that never committed follow."""
    due = min(record.due_at, record.created_at + ABANDONED)
    return record.model_copy(update={"timer": job_timer(record, due, now=record.created_at).key})


def _all_keys(record: JobRecord) -> set[str]:
    return {record.timer, list_key(record), *index_keys(record)}


def _encode_cursor(key: str) -> str:
    entry = key.rsplit("/", 1)[1]
    return base64.urlsafe_b64encode(entry.encode()).decode().rstrip("=")


def _decode_cursor(prefix: str, cursor: str | None) -> str:
    if cursor is None:
        return ""
    try:
        entry = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
    except (ValueError, binascii.Error):
        raise BadCursor(cursor) from None
    if not LIST_ENTRY.fullmatch(entry):
        raise BadCursor(cursor)
    return prefix + entry

"""The job store: job.json as the only truth, and the hints that make it findable.

Every change is a conditional write on the record's ETag. A hint is written before the commit that needs it and
removed after the commit that outdates it, so a crash leaves a hint too many, never one too few; readers drop what
they find to be stale. A job that was removed leaves a tombstone in its place for a while, see `storage.removal`.
"""

import base64
import binascii
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
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
    RecordUnreadable,
)
from storage.hint_keys import INDEX_ENTRY, Deadline, IndexEntry, index_prefix, whole_ms
from storage.jobs.hint_writer import HintWriter
from storage.jobs.hints import hints_of, list_key, status_key
from storage.jobs.record import JobRecord, Status
from storage.jobs.tombstone import Tombstone
from storage.jobs.values import Input
from storage.signal import DUE_TOPIC, Signal, job_topic, queue_topic
from storage.value import read_as

logger = logging.getLogger(__name__)

YOUNG_HINT = timedelta(minutes=10)
"""A hint without a record may belong to a submission that is about to commit; older ones are stale."""

ABANDONED = timedelta(hours=25)
"""Afterwards a submission that never committed is cleared away: when no repeat with its Idempotency-Key can come."""

MAX_LISTS = 4
"""LISTs that one page may cost: where more of its hints are stale, the page is short and its cursor leads on."""


Change = Callable[[JobRecord], JobRecord]
Beside = Mapping[str, bytes]
"""Small objects that belong to a job, by key."""
NOTHING: Beside = {}
_INPUTS = TypeAdapter(tuple[Input, ...])


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A record and the ETag under which it was read or written."""

    record: JobRecord
    etag: str


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
        self._hints = HintWriter(objects)

    async def settled(self) -> None:
        """Waits for what was still to be removed after this store's commits."""
        await self._hints.settled()

    async def create(
        self, record: JobRecord, *, workflow: bytes, files: Sequence[LocalFile] = (), beside: Beside = NOTHING
    ) -> StoredJob:
        """Accept a job. When this returns the job is durable; `PreconditionFailed` if there is one of this id.

        Announced before anything else is written, so that what a crash leaves of it is found, and cleared away.
        """
        announcement = _abandonment(record)
        await self._hints.put((announcement, *hints_of(record), list_key(record)))
        stored = await self.write_new(record, workflow=workflow, files=files, beside=beside)
        if self._clock.now() - record.created_at > YOUNG_HINT / 2:  # someone may have taken the hints for stale
            await self.publish(record)
        self._signal.ring(queue_topic(record.pool))
        self._hints.drop_soon((announcement,))
        self._ring_if_due(record)
        return stored

    async def write_new(
        self, record: JobRecord, *, workflow: bytes, files: Sequence[LocalFile] = (), beside: Beside = NOTHING
    ) -> StoredJob:
        """A job that no worker finds before it is published: one of a batch that is being accepted."""
        uploads = (self._objects.upload_file(f.key, f.path, content_type=f.content_type) for f in files)
        small = {keys.workflow(record.tenant, record.job_id): workflow, **beside}
        await gather(*(self._objects.put(key, body) for key, body in small.items()), *uploads)
        return await self._commit(record, etag=None)

    async def publish(self, record: JobRecord) -> None:
        """Make a job that was written findable. Any number of times; `record` may be older than the present one."""
        await self._hints.put((*hints_of(record), list_key(record)))
        self._signal.ring(queue_topic(record.pool))
        self._ring_if_due(record)

    async def read(self, tenant: str, job_id: str) -> StoredJob:
        """`JobGone` if it was removed, `JobNotFound` if there is none, `RecordUnreadable`."""
        try:
            stored = await self._objects.get(keys.record(tenant, job_id))
        except (ObjectNotFound, ValueError):
            raise JobNotFound(job_id) from None
        if (tombstone := Tombstone.parse(stored.body)) is not None:
            raise JobGone(job_id, tombstone.gone_at)
        return StoredJob(read_as(JobRecord, stored.head.key, stored.body), stored.head.etag)

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

    async def evolve_from(self, stored: StoredJob, change: Change) -> StoredJob:
        """As `evolve`, from a version that is at hand: saves the GET where no one else wrote meanwhile."""
        tenant, job_id = stored.record.tenant, stored.record.job_id

        async def write(found: StoredJob) -> StoredJob:
            changed = change(found.record)
            return found if changed is found.record else await self.advance(found, changed)

        return await compare_and_swap(f"job {job_id}", lambda: self.read(tenant, job_id), write, at_hand=stored)

    async def page(self, tenant: str, *, status: Status | None, limit: int, cursor: str | None) -> JobPage:
        """One LIST and one GET a row; further LISTs only where stale hints left the page short, and few of them."""
        prefix = index_prefix(tenant, status)
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

    async def advance(self, stored: StoredJob, changed: JobRecord) -> StoredJob:
        """Commit `changed` over exactly `stored`; `PreconditionFailed` if another writer was first."""
        before = stored.record
        old, new = hints_of(before), hints_of(changed)
        await self._hints.put(new - old)
        committed = await self._commit(changed.model_copy(update={"rev": before.rev + 1}), etag=stored.etag)
        self._hints.drop_soon(old - new)
        self._signal.ring(job_topic(changed.tenant, changed.job_id))
        if changed.status is Status.QUEUED:
            self._signal.ring(queue_topic(changed.pool))
        if changed.next_sequence > before.next_sequence:
            self._ring_if_due(changed)
        return committed

    def _ring_if_due(self, record: JobRecord) -> None:
        if record.events:
            self._signal.ring(DUE_TOPIC)

    async def touch(self, stored: StoredJob) -> StoredJob:
        """Write the record as it is. Whoever wrote hints for a change of the version before must begin anew, and
        write them again: so a hint that seems stale may be dropped after this."""
        return await self.advance(stored, stored.record)

    async def _rows(self, tenant: str, status: Status | None, index_keys: Sequence[str]) -> list[JobRecord]:
        rows = await map_bounded(index_keys, lambda key: self._row(tenant, status, key))
        return [row for row in rows if row is not None]

    async def _row(self, tenant: str, status: Status | None, key: str) -> JobRecord | None:
        """The record that an index key names; None, and the key perhaps dropped, if it is stale."""
        try:
            entry = IndexEntry.parse(key)
        except ValueError:
            return None
        try:
            record = (await self.read(tenant, entry.job_id)).record
        except JobNotFound:
            if self._clock.now() - entry.created_at > YOUNG_HINT:
                await self._hints.drop((key,))
            return None
        except RecordUnreadable as error:
            logger.warning("a list leaves a job out: %s", error)
            return None
        if key == (list_key(record) if status is None else status_key(record)):
            return record
        if status is None or entry.attempt is None or record.outdates(status, entry.attempt):
            await self._hints.drop((key,))
        return None

    async def _commit(self, record: JobRecord, *, etag: str | None) -> StoredJob:
        return StoredJob(*await commit(self._objects, keys.record(record.tenant, record.job_id), record, etag=etag))


def _abandonment(record: JobRecord) -> str:
    """From its time, the keys of what was announced can be told again."""
    return Deadline(whole_ms(record.created_at) + ABANDONED, "draft", record.tenant, record.job_id).key


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
    if not INDEX_ENTRY.fullmatch(entry):
        raise BadCursor(cursor)
    return prefix + entry

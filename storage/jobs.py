"""The job store: job.json as the only truth, and the hints that make it findable.

Every change is a conditional write on the record's ETag. A hint (index or queue key) is written before the
commit that needs it and removed after the commit that outdates it, so a crash leaves a hint too many, never
one too few; readers drop what they find to be stale.
"""

import base64
import binascii
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from storage import keys
from storage.clock import Clock
from storage.errors import BadCursor, JobNotFound, ObjectNotFound, PreconditionFailed, StorageUnavailable
from storage.objects import ObjectStore
from storage.record import JobRecord, Status
from storage.signal import Signal, job_topic, queue_topic
from storage.together import together

YOUNG_HINT = timedelta(minutes=10)
"""A hint without a record may belong to a submission that is about to commit; older ones are stale."""

MAX_PAGE = 200
MAX_LISTS = 4
"""LISTs that one page may cost: where more of its hints are stale, the page is short and its cursor leads on."""

CAS_ATTEMPTS = 20
"""Lost races in a row after which the bucket counts as unavailable: each loss means that another writer won."""

Change = Callable[[JobRecord], JobRecord]


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A record and the ETag under which it was read or written."""

    record: JobRecord
    etag: str


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

    async def create(self, record: JobRecord, *, workflow: bytes) -> StoredJob:
        """Accept a job. When this returns the job is durable; when it raises, it may only have left hints."""
        await self._objects.put(keys.workflow(record.tenant, record.job_id), workflow)
        await self._put_hints(index_key(record, None), index_key(record, record.status), queue_key(record))
        stored = await self._commit(record, etag=None)
        self._signal.ring(queue_topic(record.pool))
        return stored

    async def read(self, tenant: str, job_id: str) -> StoredJob:
        try:
            stored = await self._objects.get(keys.record(tenant, job_id))
        except (ObjectNotFound, ValueError):
            raise JobNotFound(job_id) from None
        return StoredJob(JobRecord.model_validate_json(stored.body), stored.head.etag)

    async def workflow(self, tenant: str, job_id: str) -> bytes:
        """The graph as it was submitted."""
        try:
            return (await self._objects.get(keys.workflow(tenant, job_id))).body
        except (ObjectNotFound, ValueError):
            raise JobNotFound(job_id) from None

    async def evolve(self, tenant: str, job_id: str, change: Change) -> StoredJob:
        """Apply `change` to the present record and commit it; what `change` raises is raised, nothing written."""
        return await self.evolve_from(await self.read(tenant, job_id), change)

    async def evolve_from(self, stored: StoredJob, change: Change) -> StoredJob:
        """As `evolve`, from a version that is at hand: saves the GET where no one else wrote meanwhile."""
        for _ in range(CAS_ATTEMPTS):
            changed = change(stored.record)
            if changed is stored.record:
                return stored
            try:
                return await self.advance(stored, changed)
            except PreconditionFailed:
                stored = await self.read(stored.record.tenant, stored.record.job_id)
        raise StorageUnavailable(f"job {stored.record.job_id} changes too fast to be written")

    async def page(self, tenant: str, *, status: Status | None, limit: int, cursor: str | None) -> JobPage:
        """One LIST and one GET a row; further LISTs only where stale hints left the page short, and few of them."""
        prefix = keys.index_prefix(tenant, status)
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
        moved = before.status is not changed.status
        if moved:
            await self._put_hints(index_key(changed, changed.status), *_work_keys(changed))
        committed = await self._commit(changed.model_copy(update={"rev": before.rev + 1}), etag=stored.etag)
        if moved:
            await self._drop_hints(index_key(before, before.status), *_work_keys(before))
        self._signal.ring(job_topic(changed.tenant, changed.job_id))
        if changed.status is Status.QUEUED:
            self._signal.ring(queue_topic(changed.pool))
        return committed

    async def _rows(self, tenant: str, status: Status | None, index_keys: Sequence[str]) -> list[JobRecord]:
        rows = await together(*(self._row(tenant, status, key) for key in index_keys))
        return [row for row in rows if row is not None]

    async def _row(self, tenant: str, status: Status | None, key: str) -> JobRecord | None:
        """The record that an index key names; None, and the key perhaps dropped, if it is stale."""
        try:
            created_at, job_id = keys.parse_index_key(key)
        except ValueError:
            return None
        try:
            record = (await self.read(tenant, job_id)).record
        except JobNotFound:
            if self._clock.now() - created_at > YOUNG_HINT:
                await self._drop_hints(key)
            return None
        if status is None or record.status is status:
            return record
        if record.status.is_terminal:
            await self._drop_hints(key)  # a terminal job never comes back to another status
        return None

    async def _commit(self, record: JobRecord, *, etag: str | None) -> StoredJob:
        record = record.model_copy(update={"nonce": secrets.token_hex(8)})
        key = keys.record(record.tenant, record.job_id)
        body = record.model_dump_json().encode()
        if etag is None:
            return StoredJob(record, await self._objects.create(key, body))
        return StoredJob(record, await self._objects.replace(key, body, etag=etag))

    async def _put_hints(self, *hints: str) -> None:
        await together(*(self._objects.put(hint, b"") for hint in hints))

    async def _drop_hints(self, *hints: str) -> None:
        """Best effort: the commit stands, and a hint that stays is dropped by whoever finds it."""
        try:
            await self._objects.delete(*hints)
        except StorageUnavailable:
            return


def index_key(record: JobRecord, status: Status | None) -> str:
    return keys.index(record.tenant, status, record.created_at, record.job_id)


def queue_key(record: JobRecord) -> str:
    return keys.QueueEntry(
        record.pool, record.priority, record.created_at, record.tenant, record.job_id, record.attempt
    ).key


def running_key(record: JobRecord) -> str:
    return keys.RunningEntry(record.pool, record.tenant, record.job_id, record.attempt).key


def _work_keys(record: JobRecord) -> tuple[str, ...]:
    """The hint by which others find a job that is not over: to claim it, or to recover it."""
    match record.status:
        case Status.QUEUED:
            return (queue_key(record),)
        case Status.RUNNING:
            return (running_key(record),)
        case _:
            return ()


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
    if not keys.INDEX_ENTRY.fullmatch(entry):
        raise BadCursor(cursor)
    return prefix + entry

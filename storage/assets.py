"""Assets: the files of a tenant by id, by the hash of their bytes, and by name.

Three things are assets: named references to bytes that were uploaded through the API (`AssetRecord`), presigned uploads
by their upload id, and outputs of jobs by the id of the output.

A record is written before its index keys. Until those exist no other process knows the id, so a process that is killed
in between leaves a record that only its timer finds. Ids are random and never used again: no deletion, however late,
can hit what another request made. Of identical uploads at the same time, each makes an asset.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from storage import keys
from storage.asset_record import SETTLING, AssetRecord, hash_prefix, id_of_entry, name_prefix, read_asset
from storage.bucket.objects import ObjectStore, all_keys
from storage.bucket.records import commit, compare_and_swap
from storage.clock import Clock
from storage.concurrency import gather
from storage.errors import AssetInUse, AssetNotFound, JobNotFound, StorageUnavailable, UploadNotFound
from storage.jobs.output_ids import OutputId
from storage.jobs.store import JobStore
from storage.jobs.uploads import STILL_USED, UploadStore, collection_timer
from storage.jobs.uses import is_used
from storage.timers import Timer

MOST_LOOKED_AT = 20
"""Index keys that one look-up reads at most. Those of deleted and expired assets are removed by the sweep."""
COLLECTED_AFTER = timedelta(minutes=10)
"""Exceeds the time in which a sweep deletes a record, after it wrote the timer of the bytes."""

Change = Callable[[AssetRecord], AssetRecord]
AssetKind = Literal["asset", "upload", "output"]


@dataclass(frozen=True, slots=True)
class Asset:
    """An asset of any kind, as it can be shown and used. `hash` is None where it was never computed."""

    kind: AssetKind
    asset_id: str
    key: str
    file_path: str | None
    content_type: str
    size_bytes: int
    created_at: datetime
    expires_at: datetime | None
    hash: str | None = None
    job_id: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """What a client says of a new asset. `lifetime` is None for the deployment's own."""

    hash: str
    file_path: str | None
    tags: tuple[str, ...] = ()
    lifetime: timedelta | None = None


class AssetStore:
    """`retain_s` is the lifetime of an asset that names none."""

    def __init__(
        self, jobs: JobStore, uploads: UploadStore, objects: ObjectStore, clock: Clock, *, retain_s: int
    ) -> None:
        self._jobs = jobs
        self._uploads = uploads
        self._objects = objects
        self._clock = clock
        self._retain = timedelta(seconds=retain_s)

    async def with_hash(self, tenant: str, digest: str) -> Asset | None:
        """Return a live asset with these bytes."""
        found = await self._first(tenant, hash_prefix(tenant, digest))
        return None if found is None else _shown(found)

    async def named(self, tenant: str, file_path: str) -> Asset | None:
        """Return the newest live asset of this name."""
        found = await self._first(tenant, name_prefix(tenant, file_path))
        return None if found is None else _shown(found)

    async def refer(self, tenant: str, wanted: Reference) -> tuple[Asset, bool] | None:
        """Return an asset of bytes that the tenant has, and whether it is new; None if it has no such bytes.

        An asset that has the same bytes and name is returned, and lives on for as long as the new one would.
        """
        started, record = self._clock.now(), None
        if wanted.file_path is not None:
            record = await self._first(tenant, hash_prefix(tenant, wanted.hash, wanted.file_path))
        other = record or await self._first(tenant, hash_prefix(tenant, wanted.hash))
        if other is None:
            return None
        if record is not None or wanted.file_path is None:
            return _shown(await self._extended(other, wanted)), False
        made = self._record(tenant, wanted, other.upload_id, other.size_bytes, other.content_type)
        await self._objects.put(_first_timer(made).key, b"")
        await self._store(made)
        if self._clock.now() - started >= SETTLING / 2:
            # A process that was paused: the bytes of the asset that was found may be gone by now.
            raise StorageUnavailable("the bytes of an asset took too long to be referred to")
        await self._index(made)
        return _shown(made), True

    async def add(self, tenant: str, wanted: Reference, path: Path, *, size_bytes: int, content_type: str) -> Asset:
        """Store the bytes of a local file as a new asset."""
        made = self._record(tenant, wanted, str(uuid.uuid4()), size_bytes, content_type)
        collection = collection_timer(tenant, made.upload_id, self._clock.now() + SETTLING)
        await gather(*(self._objects.put(timer.key, b"") for timer in (_first_timer(made), collection)))
        await gather(
            self._objects.upload_file(made.key, path, content_type=content_type, size=size_bytes), self._store(made)
        )
        await self._index(made)
        return _shown(made)

    async def find(self, tenant: str, asset_id: str) -> Asset:
        """Return a live asset of any kind. Raises `AssetNotFound`, and `UploadIncomplete` as an upload does."""
        if "." in asset_id:
            return await self._output(tenant, asset_id)
        found = await read_asset(self._objects, tenant, asset_id)
        if found is not None:
            if not found[0].is_live(self._clock.now()):
                raise AssetNotFound(asset_id)
            return _shown(found[0])
        try:
            upload = await self._uploads.resolve(tenant, asset_id)
        except UploadNotFound:
            raise AssetNotFound(asset_id) from None
        return Asset(
            "upload",
            asset_id,
            upload.key,
            upload.filename,
            upload.content_type,
            upload.size_bytes,
            upload.created_at,
            self._uploads.usable_until(upload),
        )

    async def use(self, tenant: str, asset_id: str, job_id: str) -> None:
        """Keep the asset's bytes until this job has ended. Call it before the job is written."""
        await self._objects.put(keys.asset_uses(tenant, asset_id) + job_id, b"")

    async def delete(self, tenant: str, asset_id: str) -> None:
        """Delete the asset; its bytes follow once no other asset has them. Raises `AssetNotFound`, `AssetInUse`."""
        if "." in asset_id:
            await self._output(tenant, asset_id)
            raise AssetInUse(f"{asset_id} belongs to its job, and is removed with it")
        found = await read_asset(self._objects, tenant, asset_id)
        if found is None:
            return await self._delete_upload(tenant, asset_id)
        now = self._clock.now()
        if not found[0].is_live(now):
            raise AssetNotFound(asset_id)
        if await self._is_used(tenant, asset_id):
            raise AssetInUse(f"a job that has not ended uses {asset_id}")
        # Before the commit, so that the reaper finishes what this process may not.
        await self._objects.put(_timer(found[0], now + SETTLING, now).key, b"")
        ended = await self._changed(found, lambda record: record.model_copy(update={"gone_at": now}))
        await self._objects.delete(*ended.index_keys)
        return None

    async def on_due(self, timer: Timer) -> Timer | None:
        """Remove an asset that has ended once no job uses it."""
        now, tenant, asset_id = self._clock.now(), timer.tenant, timer.id
        found = await read_asset(self._objects, tenant, asset_id, confirmed=True)
        if found is None:  # a request that ended before it wrote the record, or an earlier sweep
            return None
        record, _ = found
        if record.is_live(now):
            return _timer(record, record.expires_at, now)
        await self._objects.delete(*record.index_keys)
        if now < record.ends_at + SETTLING:
            return _timer(record, record.ends_at + SETTLING, now)
        if await self._is_used(tenant, asset_id):
            return _timer(record, now + STILL_USED, now)
        async for page in all_keys(self._objects, keys.asset_uses(tenant, asset_id)):
            await self._objects.delete(*page)
        collection = collection_timer(tenant, record.upload_id, now + COLLECTED_AFTER)
        await self._objects.put(collection.key, b"")
        reference = keys.upload_assets(tenant, record.upload_id) + asset_id
        await self._objects.delete(keys.asset(tenant, asset_id), reference)
        return None

    def _record(
        self, tenant: str, wanted: Reference, upload_id: str, size_bytes: int, content_type: str
    ) -> AssetRecord:
        now = self._clock.now()
        return AssetRecord(
            tenant=tenant,
            asset_id=str(uuid.uuid4()),
            hash=wanted.hash,
            file_path=wanted.file_path or "",
            content_type=content_type,
            size_bytes=size_bytes,
            upload_id=upload_id,
            tags=wanted.tags,
            created_at=now,
            expires_at=now + (wanted.lifetime or self._retain),
        )

    async def _store(self, record: AssetRecord) -> None:
        """Write the record, and at the same time the key by which its upload is kept."""
        reference = keys.upload_assets(record.tenant, record.upload_id) + record.asset_id
        key = keys.asset(record.tenant, record.asset_id)
        await gather(commit(self._objects, key, record, etag=None), self._objects.put(reference, b""))

    async def _index(self, record: AssetRecord) -> None:
        await gather(*(self._objects.put(key, b"") for key in record.index_keys))

    async def _extended(self, record: AssetRecord, wanted: Reference) -> AssetRecord:
        """Let the asset live for as long as a new one would; a hit never shortens its life."""
        until = self._clock.now() + (wanted.lifetime or self._retain)
        if until <= record.expires_at:
            return record
        # Its timer may be early, and is then replaced.
        found = await read_asset(self._objects, record.tenant, record.asset_id)
        if found is None:
            raise AssetNotFound(record.asset_id)
        return await self._changed(found, lambda one: one.model_copy(update={"expires_at": max(until, one.expires_at)}))

    async def _changed(self, found: tuple[AssetRecord, str], change: Change) -> AssetRecord:
        """Commit a change of a live asset. Raises `AssetNotFound` if it has ended."""
        tenant, asset_id = found[0].tenant, found[0].asset_id

        async def read() -> tuple[AssetRecord, str]:
            again = await read_asset(self._objects, tenant, asset_id)
            if again is None:
                raise AssetNotFound(asset_id)
            return again

        async def write(at_hand: tuple[AssetRecord, str]) -> AssetRecord:
            record, etag = at_hand
            if not record.is_live(self._clock.now()):
                raise AssetNotFound(asset_id)
            key = keys.asset(tenant, asset_id)
            return (await commit(self._objects, key, change(record), etag=etag))[0]

        return await compare_and_swap(f"asset {asset_id}", read, write, at_hand=found)

    async def _first(self, tenant: str, prefix: str) -> AssetRecord | None:
        """Return the first live asset of these index keys."""
        page = await self._objects.list(prefix, limit=MOST_LOOKED_AT)
        return await self._first_live(tenant, page.keys)

    async def _first_live(self, tenant: str, entries: Sequence[str]) -> AssetRecord | None:
        # One after the other: all but the first are read only if that has ended a short while ago.
        now = self._clock.now()
        for entry in entries:
            found = await read_asset(self._objects, tenant, id_of_entry(entry))
            if found is not None and found[0].is_live(now):
                return found[0]
        return None

    async def _output(self, tenant: str, asset_id: str) -> Asset:
        try:
            output_id = OutputId.parse(asset_id)
            record = (await self._jobs.read(tenant, output_id.job_id)).record
        except (ValueError, JobNotFound):
            raise AssetNotFound(asset_id) from None
        if (output := output_id.find(record)) is None:
            raise AssetNotFound(asset_id)
        return Asset(
            "output",
            asset_id,
            output.key,
            output.filename,
            output.content_type,
            output.size_bytes,
            record.completed_at or record.started_at or record.created_at,
            record.due_at if record.status.is_terminal else None,
            job_id=record.job_id,
        )

    async def _delete_upload(self, tenant: str, upload_id: str) -> None:
        if not await self._uploads.is_known(tenant, upload_id):
            raise AssetNotFound(upload_id)
        if await self._uploads.is_used(tenant, upload_id):
            raise AssetInUse(f"a job that has not ended uses {upload_id}")
        await self._uploads.discard(tenant, upload_id)

    async def _is_used(self, tenant: str, asset_id: str) -> bool:
        return await is_used(self._jobs, self._objects, tenant, keys.asset_uses(tenant, asset_id))


def _shown(record: AssetRecord) -> Asset:
    return Asset(
        "asset",
        record.asset_id,
        record.key,
        record.file_path,
        record.content_type,
        record.size_bytes,
        record.created_at,
        record.expires_at,
        hash=record.hash,
        tags=record.tags,
    )


def _timer(record: AssetRecord, due: datetime, now: datetime) -> Timer:
    return Timer.new(due, "asset", record.tenant, record.asset_id, armed_at=now)


def _first_timer(record: AssetRecord) -> Timer:
    return _timer(record, record.expires_at, record.created_at)

"""Presigned uploads: their records, and the check that the bytes arrived.

The presigned PUT is create-only and bound to a length and a type, so an upload never changes. New jobs may use it for
`retain_s`; its bytes are kept until every job that uses them has ended, and every asset that refers to them is gone.
"""

import uuid
from datetime import datetime, timedelta

from pydantic import Field

from storage import keys
from storage.asset_record import SETTLING, id_of_entry, read_asset
from storage.bucket.objects import ObjectStore, SignedRequest, all_keys
from storage.bucket.records import Model, new_nonce, read_as
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import ObjectNotFound, PreconditionFailed, UploadIncomplete, UploadNotFound
from storage.formats import HEAD_BYTES, listed_format
from storage.jobs.record import DEFAULT_RETAIN_S
from storage.jobs.store import JobStore
from storage.jobs.uses import is_used
from storage.timers import SHARED_NONCE, Timer

SUBMISSION = timedelta(hours=1)
"""Exceeds the time between a submission's check of an upload and the record of its use."""
STILL_USED = timedelta(hours=6)


class UploadRecord(Model):
    """The content of upload.json, immutable. `nonce` tells it from that of a concurrent request for the same upload."""

    tenant: str
    upload_id: str
    filename: str | None
    size_bytes: int
    content_type: str
    created_at: datetime
    expires_at: datetime
    nonce: str = Field(default_factory=new_nonce)

    @property
    def key(self) -> str:
        """The key of the uploaded bytes."""
        return keys.upload_data(self.tenant, self.upload_id)


class UploadStore:
    """`expires_s` is the lifetime of a presigned URL; `retain_s` is how long new jobs may use an upload."""

    def __init__(
        self,
        jobs: JobStore,
        objects: ObjectStore,
        clock: Clock,
        *,
        expires_s: int,
        retain_s: int = DEFAULT_RETAIN_S,
    ) -> None:
        self._jobs = jobs
        self._objects = objects
        self._clock = clock
        self._expires_s = expires_s
        self._retain = timedelta(seconds=retain_s)

    async def create(
        self, tenant: str, *, size_bytes: int, content_type: str, filename: str | None, upload_id: str | None = None
    ) -> tuple[UploadRecord, SignedRequest, bool]:
        """Create an upload and presign its PUT. An existing upload of `upload_id` is presigned again.

        The flag is False for an upload that existed.
        """
        now = self._clock.now()
        record = UploadRecord(
            tenant=tenant,
            upload_id=upload_id or str(uuid.uuid4()),
            filename=filename,
            size_bytes=size_bytes,
            content_type=content_type,
            created_at=now,
            expires_at=now + timedelta(seconds=self._expires_s),
        )
        # The timer precedes the record, so that an upload that is never used is deleted.
        await self._objects.put(self._timer(record).key, b"")
        is_new = True
        try:
            await self._objects.create(keys.upload(tenant, record.upload_id), record.model_dump_json().encode())
        except PreconditionFailed:
            is_new = False
            record = await self._read(tenant, record.upload_id)  # of an earlier request with this Idempotency-Key
        signed = self._objects.presign_put(
            record.key, expires_s=self._expires_s, size=size_bytes, content_type=content_type
        )
        return record, signed, is_new

    async def resolve(self, tenant: str, upload_id: str) -> UploadRecord:
        """Return an upload whose bytes have arrived.

        Raises `UploadNotFound` for an unknown or expired id, `UploadIncomplete` if bytes are missing, and
        `FileRefused` if their format is not listed.
        """
        record = await self._read(tenant, upload_id)
        if self._clock.now() >= self.usable_until(record):
            raise UploadNotFound(upload_id)
        try:
            head = await self._objects.head(record.key)
            start = await self._objects.get_range(record.key, 0, HEAD_BYTES)
        except ObjectNotFound:
            raise UploadIncomplete(f"no bytes arrived for upload {upload_id}") from None
        if head.size != record.size_bytes:
            raise UploadIncomplete(f"upload {upload_id} has {head.size} of {record.size_bytes} bytes")
        _check_type(record, start)
        return record

    def usable_until(self, record: UploadRecord) -> datetime:
        """When new jobs can no longer use the upload."""
        return record.created_at + self._retain

    async def is_known(self, tenant: str, upload_id: str) -> bool:
        """Whether the upload exists, with or without its bytes."""
        try:
            await self._read(tenant, upload_id)
        except UploadNotFound:
            return False
        return True

    async def use(self, tenant: str, upload_id: str, job_id: str) -> None:
        """Keep the bytes until this job has ended. Call it before the job is written."""
        await self._objects.put(keys.upload_use(tenant, upload_id, job_id), b"")

    async def discard(self, tenant: str, upload_id: str) -> None:
        """Make the upload unknown to new jobs; its bytes are deleted once no submission can need them."""
        timer = collection_timer(tenant, upload_id, self._clock.now() + SUBMISSION)
        await self._objects.put(timer.key, b"")
        await self._objects.delete(keys.upload(tenant, upload_id))

    async def is_used(self, tenant: str, upload_id: str) -> bool:
        """Whether a job that has not ended reads it."""
        return await is_used(self._jobs, self._objects, tenant, keys.upload_uses(tenant, upload_id))

    async def on_due(self, timer: Timer) -> Timer | None:
        """Delete an expired upload once no job and no asset needs it."""
        now, tenant, upload_id = self._clock.now(), timer.tenant, timer.id
        assets = keys.upload_assets(tenant, upload_id)
        page = await self._objects.list(assets)
        found = await map_bounded(
            page.keys, lambda key: read_asset(self._objects, tenant, id_of_entry(key), confirmed=True)
        )
        if ends := [asset[0].expires_at for asset in found if asset is not None]:
            # The record of an asset stays for as long as a job uses it. One that goes earlier leaves a timer of its
            # own, so this one need not look before the time.
            return collection_timer(tenant, upload_id, max(now + STILL_USED, max(ends) + 2 * SETTLING))
        await self._objects.delete(*page.keys)
        if page.more:  # the next sweep checks the assets of the next page
            return timer
        if await self.is_used(tenant, upload_id):
            return collection_timer(tenant, upload_id, now + STILL_USED)
        async for uses in all_keys(self._objects, keys.upload_uses(tenant, upload_id)):
            await self._objects.delete(*uses)
        await self._objects.delete(keys.upload_data(tenant, upload_id), keys.upload(tenant, upload_id))
        return None

    def _timer(self, record: UploadRecord) -> Timer:
        """Return the timer of the time when neither the upload nor its URL can be used."""
        ends_at = max(record.created_at + self._retain, record.expires_at)
        return Timer.new(ends_at + SUBMISSION, "upload", record.tenant, record.upload_id, armed_at=record.created_at)

    async def _read(self, tenant: str, upload_id: str) -> UploadRecord:
        try:
            stored = await self._objects.get(keys.upload(tenant, upload_id))
        except (ObjectNotFound, ValueError):
            raise UploadNotFound(upload_id) from None
        return read_as(UploadRecord, stored.head.key, stored.body)


def collection_timer(tenant: str, upload_id: str, due: datetime) -> Timer:
    """Return a timer that looks whether the bytes are still needed."""
    # Several assets may cause it: with a fixed nonce, those of one second write one object.
    due = due.replace(microsecond=0)
    return Timer(due, "upload", tenant, upload_id, due, SHARED_NONCE)


def _check_type(record: UploadRecord, start: bytes) -> None:
    """Check that the format is listed and that an image, video or sound has its declared type."""
    found = listed_format(start, record.size_bytes, data=True)
    family = record.content_type.partition("/")[0].lower()
    if family in ("image", "video", "audio") and found.partition("/")[0] != family:
        promised = f"upload {record.upload_id} was to be {record.content_type}"
        raise UploadIncomplete(f"{promised}, and begins as {found}")

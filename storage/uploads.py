"""Presigned uploads: what was promised to an uploader, and whether the bytes arrived.

The presigned PUT is bound to length and type and creates only, so an upload never changes after its use.
"""

import uuid
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from storage import keys
from storage.clock import Clock
from storage.errors import ObjectNotFound, PreconditionFailed, UploadIncomplete, UploadNotFound
from storage.objects import ObjectStore, SignedRequest


class UploadRecord(BaseModel):
    """The content of upload.json, immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str
    upload_id: str
    filename: str | None
    size_bytes: int
    content_type: str
    created_at: datetime
    expires_at: datetime

    @property
    def key(self) -> str:
        """Where the bytes lie."""
        return keys.upload_data(self.tenant, self.upload_id)


class UploadStore:
    """`expires_s`: how long a presigned URL may be used."""

    def __init__(self, objects: ObjectStore, clock: Clock, *, expires_s: int) -> None:
        self._objects = objects
        self._clock = clock
        self._expires_s = expires_s

    async def create(
        self, tenant: str, *, size_bytes: int, content_type: str, filename: str | None, upload_id: str | None = None
    ) -> tuple[UploadRecord, SignedRequest]:
        """`upload_id` is given where it was fixed before; an upload of that id that exists is signed again."""
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
        try:
            await self._objects.create(keys.upload(tenant, record.upload_id), record.model_dump_json().encode())
        except PreconditionFailed:
            record = await self._read(tenant, record.upload_id)
        signed = self._objects.presign_put(
            record.key, expires_s=self._expires_s, size=size_bytes, content_type=content_type
        )
        return record, signed

    async def resolve(self, tenant: str, upload_id: str) -> UploadRecord:
        """`UploadNotFound` for an unknown id, `UploadIncomplete` while the promised bytes are not there."""
        record = await self._read(tenant, upload_id)
        try:
            size = (await self._objects.head(record.key)).size
        except ObjectNotFound:
            raise UploadIncomplete(f"no bytes arrived for upload {upload_id}") from None
        if size != record.size_bytes:
            raise UploadIncomplete(f"upload {upload_id} has {size} of {record.size_bytes} bytes")
        return record

    async def _read(self, tenant: str, upload_id: str) -> UploadRecord:
        try:
            stored = await self._objects.get(keys.upload(tenant, upload_id))
        except (ObjectNotFound, ValueError):
            raise UploadNotFound(upload_id) from None
        return UploadRecord.model_validate_json(stored.body)

"""`ObjectStore`: what this product needs of S3, and no more.

The S3 adapter (`storage.bucket.s3`) and the in-memory store (`storage.bucket.memory`) pass the same contract tests.
A conditional write never retries blindly: its body carries a nonce, and after a timeout or a 5xx
the caller's write is recognised by reading it back.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """What S3 tells of an object without its bytes. `etag` is unquoted."""

    key: str
    etag: str
    size: int
    content_type: str
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A whole small object."""

    head: ObjectHead
    body: bytes


@dataclass(frozen=True, slots=True)
class KeyPage:
    """One LIST answer: keys in UTF-8 order; `more` tells whether another page follows the last key."""

    keys: tuple[str, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A presigned request: send `method` to `url` with exactly these `headers` before `expires_at`."""

    method: str
    url: str
    expires_at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)


class ObjectStore(Protocol):
    """Async face of one bucket under one key prefix. Keys are relative to that prefix.

    Every method may raise `StorageUnavailable` or `StorageRefused`.
    """

    async def put(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        """Write unconditionally; returns the ETag."""
        ...

    async def create(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        """Write only if the key is free, else `PreconditionFailed`; returns the ETag."""
        ...

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        """Write only over this very ETag, else `PreconditionFailed`; returns the new ETag."""
        ...

    async def get(self, key: str) -> StoredObject:
        """The whole object, for small ones; `ObjectNotFound`."""
        ...

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` (≥ 1) bytes from `start`, none where the object ends before; `ObjectNotFound`."""
        ...

    async def head(self, key: str) -> ObjectHead:
        """`ObjectNotFound`."""
        ...

    async def upload_file(self, key: str, path: Path, *, content_type: str) -> None:
        """A file of any size, multipart where large, memory constant."""
        ...

    async def download_file(self, key: str, path: Path) -> None:
        """The object into a file, memory constant; a partial file is removed on error."""
        ...

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        """One LIST: keys that start with `prefix`, from the first one behind `after`; limit 1 to 1000."""
        ...

    async def delete(self, *keys: str) -> None:
        """Remove the keys; a missing one is not an error."""
        ...

    def presign_get(self, key: str, *, expires_s: int, filename: str, content_type: str) -> SignedRequest:
        """A URL that downloads the object under `filename`. Makes no request."""
        ...

    def presign_put(self, key: str, *, expires_s: int, size: int, content_type: str) -> SignedRequest:
        """A create-only upload bound to this length and type. Makes no request."""
        ...

    async def close(self) -> None: ...


async def all_keys(objects: ObjectStore, prefix: str, *, page: int = 1000) -> AsyncIterator[Sequence[str]]:
    """Every key below a prefix: one LIST a page, and no empty page."""
    after = ""
    while True:
        listed = await objects.list(prefix, after=after, limit=page)
        if listed.keys:
            yield listed.keys
        if not listed.more:
            return
        after = listed.keys[-1]

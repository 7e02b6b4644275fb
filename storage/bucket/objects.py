"""`ObjectStore`: the operations of S3 that this product needs.

The S3 adapter (`storage.bucket.s3`) and the in-memory store (`storage.bucket.memory`) pass the same contract tests.
A conditional write is never repeated blindly: its body carries a nonce, and after a timeout or a 5xx the store reads
the object back to recognise the write.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from storage.errors import FileChanged, StorageUnavailable


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """An object's metadata. `etag` is unquoted."""

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
    """One page of a LIST: keys in UTF-8 order; `more` is true if another page follows the last key.

    A page without keys is the last. `answered_at` is the time of the answer by the bucket's clock, in whole seconds;
    None if the answer names none.
    """

    keys: tuple[str, ...]
    more: bool
    answered_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A presigned request: send `method` to `url` with exactly these `headers` before `expires_at`."""

    method: str
    url: str
    expires_at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)


class ObjectStore(Protocol):
    """Async access to one bucket under one key prefix. Keys are relative to that prefix.

    Every method may raise `StorageUnavailable` or `StorageRefused`.
    """

    async def put(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        """Write unconditionally and return the ETag."""
        ...

    async def create(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        """Write if the key is free and return the ETag. Raises `PreconditionFailed` otherwise."""
        ...

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        """Write over exactly this ETag and return the new one. Raises `PreconditionFailed` otherwise."""
        ...

    async def get(self, key: str) -> StoredObject:
        """Return a whole small object. Raises `ObjectNotFound`."""
        ...

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return at most `length` (≥ 1) bytes from `start`, none beyond the end. Raises `ObjectNotFound`."""
        ...

    async def head(self, key: str) -> ObjectHead:
        """Return the object's metadata. Raises `ObjectNotFound`."""
        ...

    async def upload_file(self, key: str, path: Path, *, content_type: str, size: int | None = None) -> None:
        """Upload a file of any size in constant memory; large ones are multipart.

        `size` is for a file that may still change: exactly as many bytes are sent. Raises `FileChanged` if it has less.
        """
        ...

    async def download_file(self, key: str, path: Path) -> None:
        """Download the object to a file in constant memory. A partial file is removed on error."""
        ...

    async def copy(self, source: str, target: str, *, content_type: str) -> None:
        """Copy an object of any size within the bucket; its bytes do not come here. Raises `ObjectNotFound`."""
        ...

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        """Return one page of the keys that start with `prefix` and follow `after`; `limit` is 1 to 1000."""
        ...

    async def delete(self, *keys: str) -> None:
        """Delete the keys; a missing one is not an error."""
        ...

    def presign_get(self, key: str, *, expires_s: int, filename: str, content_type: str) -> SignedRequest:
        """Return a URL that downloads the object under `filename`. Makes no request."""
        ...

    def presign_put(self, key: str, *, expires_s: int, size: int, content_type: str) -> SignedRequest:
        """Return a create-only upload bound to this length and type. Makes no request."""
        ...

    async def close(self) -> None: ...


def first_bytes(path: Path, size: int) -> bytes:
    """Return exactly `size` bytes of a small file. Raises `FileChanged` if it has less."""
    with path.open("rb") as file:
        body = file.read(size)
    if len(body) < size:
        raise FileChanged(f"{path.name} has less than {size} bytes")
    return body


async def all_keys(objects: ObjectStore, prefix: str, *, page: int = 1000) -> AsyncIterator[Sequence[str]]:
    """Yield every key below a prefix in pages, for one LIST each; no page is empty."""
    after = ""
    while True:
        listed = await objects.list(prefix, after=after, limit=page)
        if listed.keys:
            yield listed.keys
        if not listed.more:
            return
        after = listed.keys[-1]


async def is_absent(objects: ObjectStore, key: str) -> bool:
    """Whether a LIST has no object either under a key that a GET did not find.

    Ask before a step that follows from the absence and cannot be undone: one wrong answer must not cause it.
    """
    # In key order, the key itself is the first that begins with it.
    return key not in (await objects.list(key, limit=1)).keys


async def confirm_absence(objects: ObjectStore, key: str) -> None:
    """Raise `StorageUnavailable` if a LIST has the key that a GET did not find, see `is_absent`."""
    if not await is_absent(objects, key):
        raise StorageUnavailable(f"{key}: the bucket lists the object and does not find it")

"""`ObjectStore` in memory with S3's semantics, for tests and simulations. It ships with the product.

It refuses keys that some S3 server would mishandle (see `storage.keys`), so that a test finds them.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlencode

from storage.bucket.objects import KeyPage, ObjectHead, SignedRequest, StoredObject, first_bytes
from storage.clock import Clock
from storage.errors import ObjectNotFound, PreconditionFailed
from storage.local_disk import local_writes

_LONGEST_SEGMENT = 255


@dataclass(frozen=True, slots=True)
class _Entry:
    body: bytes
    content_type: str
    modified: datetime

    @property
    def etag(self) -> str:
        # As on S3, equal bodies share an ETag, so that a test finds a record without a nonce.
        return hashlib.md5(self.body, usedforsecurity=False).hexdigest()


class MemoryObjectStore:
    """`requests` counts the requests that S3 would have received, by operation."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._folders: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()

    async def put(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        self.requests["PUT"] += 1
        return self._write(key, body, content_type)

    async def create(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        self.requests["PUT"] += 1
        if key in self._entries:
            raise PreconditionFailed(f"{key} exists")
        return self._write(key, body, content_type)

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        self.requests["PUT"] += 1
        present = self._entries.get(key)
        if present is None or present.etag != etag:
            raise PreconditionFailed(f"{key} changed")
        return self._write(key, body, content_type)

    async def get(self, key: str) -> StoredObject:
        self.requests["GET"] += 1
        entry = self._entry(key)
        return StoredObject(_head(key, entry), entry.body)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        self.requests["GET"] += 1
        return self._entry(key).body[start : start + length]

    async def head(self, key: str) -> ObjectHead:
        self.requests["HEAD"] += 1
        return _head(key, self._entry(key))

    async def upload_file(self, key: str, path: Path, *, content_type: str, size: int | None = None) -> None:
        self.requests["PUT"] += 1
        self._write(key, path.read_bytes() if size is None else first_bytes(path, size), content_type)

    async def download_file(self, key: str, path: Path) -> None:
        self.requests["GET"] += 1
        body = self._entry(key).body
        with local_writes(key):
            path.write_bytes(body)

    async def copy(self, source: str, target: str, *, content_type: str) -> None:
        self.requests["COPY"] += 1
        self._write(target, self._entry(source).body, content_type)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        self.requests["LIST"] += 1
        # S3 orders keys by their bytes.
        found = sorted((key for key in self._entries if key.startswith(prefix) and key > after), key=str.encode)
        return KeyPage(tuple(found[:limit]), len(found) > limit, self._clock.now())

    async def delete(self, *keys: str) -> None:
        self.requests["DELETE"] += 1 if keys else 0
        for key in keys:
            if self._entries.pop(key, None) is not None:
                self._folders.subtract(_folders(key))

    def presign_get(self, key: str, *, expires_s: int, filename: str, content_type: str) -> SignedRequest:
        query = urlencode({"filename": filename, "type": content_type, "expires": expires_s})
        return SignedRequest("GET", f"memory://{quote(key)}?{query}", self._expiry(expires_s))

    def presign_put(self, key: str, *, expires_s: int, size: int, content_type: str) -> SignedRequest:
        headers = {"content-length": str(size), "content-type": content_type, "if-none-match": "*"}
        return SignedRequest("PUT", f"memory://{quote(key)}", self._expiry(expires_s), headers)

    async def close(self) -> None:
        """Do nothing, since no resource is open."""

    def keys(self) -> tuple[str, ...]:
        """Return every key, for tests of the whole bucket. It does not count as a request."""
        return tuple(sorted(self._entries))

    def contents(self) -> dict[str, bytes]:
        """Return every object's bytes by key. It does not count as a request."""
        return {key: entry.body for key, entry in self._entries.items()}

    def _entry(self, key: str) -> _Entry:
        try:
            return self._entries[key]
        except KeyError:
            raise ObjectNotFound(key) from None

    def _write(self, key: str, body: bytes, content_type: str) -> str:
        if key not in self._entries:
            self._check_key(key)
            self._folders.update(_folders(key))
        entry = _Entry(bytes(body), content_type, self._clock.now())
        self._entries[key] = entry
        return entry.etag

    def _check_key(self, key: str) -> None:
        for segment in key.split("/"):
            if segment in ("", ".", "..") or "\\" in segment or len(segment.encode()) > _LONGEST_SEGMENT:
                raise ValueError(f"not a safe key: {key!r}")
        if self._folders[key] > 0 or any(folder in self._entries for folder in _folders(key)):
            raise ValueError(f"one key is another's folder: {key!r}")

    def _expiry(self, expires_s: int) -> datetime:
        return self._clock.now() + timedelta(seconds=expires_s)


def _head(key: str, entry: _Entry) -> ObjectHead:
    return ObjectHead(key, entry.etag, len(entry.body), entry.content_type, entry.modified)


def _folders(key: str) -> list[str]:
    """Return the parent folders of a key: `a` and `a/b` for `a/b/c`."""
    parts = key.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]

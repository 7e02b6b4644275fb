"""An in-memory bucket that records which keys were requested."""

from pathlib import Path

from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import KeyPage, ObjectHead, SignedRequest, StoredObject
from storage.clock import Clock


class WatchedBucket(MemoryObjectStore):
    """`touched` lists the verb and key, or prefix, of each request in order; presigning a URL counts too."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.touched: list[tuple[str, str]] = []

    def watch(self) -> None:
        """Start recording."""
        self.touched.clear()
        self.requests.clear()

    async def put(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        self._note("PUT", key)
        return await super().put(key, body, content_type=content_type)

    async def create(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        self._note("CREATE", key)
        return await super().create(key, body, content_type=content_type)

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        self._note("REPLACE", key)
        return await super().replace(key, body, etag=etag, content_type=content_type)

    async def get(self, key: str) -> StoredObject:
        self._note("GET", key)
        return await super().get(key)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        self._note("GET", key)
        return await super().get_range(key, start, length)

    async def head(self, key: str) -> ObjectHead:
        self._note("HEAD", key)
        return await super().head(key)

    async def upload_file(self, key: str, path: Path, *, content_type: str, size: int | None = None) -> None:
        self._note("PUT", key)
        await super().upload_file(key, path, content_type=content_type, size=size)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        self._note("LIST", prefix)
        return await super().list(prefix, after=after, limit=limit)

    async def delete(self, *keys: str) -> None:
        for key in keys:
            self._note("DELETE", key)
        await super().delete(*keys)

    def presign_get(self, key: str, *, expires_s: int, filename: str, content_type: str) -> SignedRequest:
        self._note("PRESIGN", key)
        return super().presign_get(key, expires_s=expires_s, filename=filename, content_type=content_type)

    def presign_put(self, key: str, *, expires_s: int, size: int, content_type: str) -> SignedRequest:
        self._note("PRESIGN", key)
        return super().presign_put(key, expires_s=expires_s, size=size, content_type=content_type)

    def _note(self, verb: str, key: str) -> None:
        self.touched.append((verb, key))

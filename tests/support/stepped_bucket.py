"""An in-memory bucket in which something happens before or after a chosen request."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import KeyPage, StoredObject
from storage.clock import Clock

T = TypeVar("T")
Event = Callable[[], Awaitable[None]]


class SteppedBucket(MemoryObjectStore):
    """`at(n, event)` runs `event` once, before the n-th request from now, or after it took effect."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._event: Event | None = None
        self._left = 0
        self._after = False

    def at(self, step: int, event: Event, *, after: bool = False) -> None:
        self._left, self._event, self._after = step, event, after

    @property
    def has_happened(self) -> bool:
        return self._event is None

    def disarm(self) -> None:
        self._event = None

    async def put(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        return await self._step(lambda: super(SteppedBucket, self).put(key, body, content_type=content_type))

    async def create(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        return await self._step(lambda: super(SteppedBucket, self).create(key, body, content_type=content_type))

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        return await self._step(
            lambda: super(SteppedBucket, self).replace(key, body, etag=etag, content_type=content_type)
        )

    async def get(self, key: str) -> StoredObject:
        return await self._step(lambda: super(SteppedBucket, self).get(key))

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        return await self._step(lambda: super(SteppedBucket, self).list(prefix, after=after, limit=limit))

    async def delete(self, *keys: str) -> None:
        await self._step(lambda: super(SteppedBucket, self).delete(*keys))

    async def copy(self, source: str, target: str, *, content_type: str) -> None:
        await self._step(lambda: super(SteppedBucket, self).copy(source, target, content_type=content_type))

    async def upload_file(self, key: str, path: Path, *, content_type: str, size: int | None = None) -> None:
        await self._step(
            lambda: super(SteppedBucket, self).upload_file(key, path, content_type=content_type, size=size)
        )

    async def _step(self, request: Callable[[], Awaitable[T]]) -> T:
        self._left -= 1
        if self._event is None or self._left != 0:
            return await request()
        event, self._event = self._event, None
        if not self._after:
            await event()
            return await request()
        answer = await request()
        await event()
        return answer

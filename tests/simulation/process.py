"""A simulated process: tasks that die together, with a bucket client at whose calls they may die."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, TypeVar

from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import KeyPage, ObjectHead, SignedRequest, StoredObject
from storage.tickets import MOST_COUNTED
from tests.simulation.faults import Faults, ProcessDied

T = TypeVar("T")
Kind = Literal["api", "worker", "reaper", "deliverer"]

_CURRENT: ContextVar["Process | None"] = ContextVar("process", default=None)


class Process:
    """All tasks that `start` starts, and the tasks that they start, belong to the process."""

    def __init__(self, kind: Kind, name: str) -> None:
        self.kind = kind
        self.name = name
        self.alive = True
        self.died = asyncio.get_running_loop().create_future()
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def start(self, main: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        token = _CURRENT.set(self)
        try:
            return asyncio.get_running_loop().create_task(main)
        finally:
            _CURRENT.reset(token)

    def kill(self) -> None:
        if self.alive:
            self.alive = False
            if not self.died.done():
                self.died.set_result(None)
            for task in list(self._tasks):
                task.cancel()

    def _adopt(self, task: "asyncio.Task[Any]") -> None:
        self._tasks[task] = None
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        del self._tasks[task]
        if not task.cancelled():
            task.exception()  # retrieved, because a dead process reports nothing


def adopting_factory(loop: asyncio.AbstractEventLoop, main: Any, **options: Any) -> "asyncio.Future[Any]":
    """Assign each task to the process whose code started it."""
    task: asyncio.Task[Any] = asyncio.Task(main, loop=loop, **options)
    process = _CURRENT.get()
    if process is not None:
        process._adopt(task)
    return task


class ProcessStore:
    """The bucket as one process sees it. `watch` is called after each call that took effect."""

    def __init__(
        self, process: Process, bucket: MemoryObjectStore, faults: Faults, watch: Callable[[Process, str, str], None]
    ) -> None:
        self._process = process
        self._bucket = bucket
        self._faults = faults
        self._watch = watch

    async def put(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        return await self._call("put", key, lambda: self._bucket.put(key, body, content_type=content_type))

    async def create(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        return await self._call("create", key, lambda: self._bucket.create(key, body, content_type=content_type))

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        return await self._call(
            "replace", key, lambda: self._bucket.replace(key, body, etag=etag, content_type=content_type)
        )

    async def get(self, key: str) -> StoredObject:
        return await self._call("get", key, lambda: self._bucket.get(key))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        return await self._call("get", key, lambda: self._bucket.get_range(key, start, length))

    async def head(self, key: str) -> ObjectHead:
        return await self._call("head", key, lambda: self._bucket.head(key))

    async def upload_file(self, key: str, path: Path, *, content_type: str, size: int | None = None) -> None:
        await self._call("put", key, lambda: self._bucket.upload_file(key, path, content_type=content_type, size=size))

    async def download_file(self, key: str, path: Path) -> None:
        await self._call("get", key, lambda: self._bucket.download_file(key, path))

    async def copy(self, source: str, target: str, *, content_type: str) -> None:
        await self._call("put", target, lambda: self._bucket.copy(source, target, content_type=content_type))

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        # A worker that counts the queue for its tickets does not choose a job by that.
        operation = "count" if limit >= MOST_COUNTED else "list"
        return await self._call(operation, prefix, lambda: self._bucket.list(prefix, after=after, limit=limit))

    async def delete(self, *keys: str) -> None:
        """Delete the keys one by one; a failure may leave some deleted, as on a real server."""
        for key in keys:
            await self._call("delete", key, lambda key=key: self._bucket.delete(key))  # type: ignore[misc]

    def presign_get(self, key: str, *, expires_s: int, filename: str, content_type: str) -> SignedRequest:
        return self._bucket.presign_get(key, expires_s=expires_s, filename=filename, content_type=content_type)

    def presign_put(self, key: str, *, expires_s: int, size: int, content_type: str) -> SignedRequest:
        return self._bucket.presign_put(key, expires_s=expires_s, size=size, content_type=content_type)

    async def close(self) -> None:
        """Do nothing, because there is nothing to close."""

    async def _call(self, operation: str, key: str, effect: Callable[[], Coroutine[Any, Any, T]]) -> T:
        rates = self._faults.rates
        await self._faults.delay()
        self._maybe_die(rates.death_before)
        self._faults.maybe_fail(rates.error_before)
        result = await effect()
        self._watch(self._process, operation, key)
        self._maybe_die(rates.death_after)
        if operation not in ("get", "list", "count"):  # a read that fails has no effect
            self._faults.maybe_fail(rates.error_after)
        return result

    def _maybe_die(self, rate: float) -> None:
        if self._faults.happens(rate):
            self._process.kill()
        if not self._process.alive:
            raise ProcessDied

"""Writes index keys before a commit, and deletes stale ones in the background after it.

A stale key costs a reader one GET at most, so no response waits for its deletion.
"""

import asyncio
import contextlib
from collections.abc import Iterable

from storage.bucket.budget import background, within_budget
from storage.bucket.objects import ObjectStore
from storage.concurrency import gather
from storage.errors import StorageError


class IndexWriter:
    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._deleting: dict[str, asyncio.Task[None]] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def put(self, index_keys: Iterable[str]) -> None:
        """Write the keys in one round."""
        keys = sorted(index_keys)
        # A background deletion of the same key ends first; otherwise it could delete the new key.
        if deletions := {self._deleting[key] for key in keys if key in self._deleting}:
            async with within_budget(keys[0]):
                await asyncio.wait(deletions)
        await gather(*(self._objects.put(key, b"") for key in keys))

    def put_soon(self, index_keys: Iterable[str]) -> None:
        """Write keys in the background; failures are ignored."""
        writing = background(self._try_to_put(tuple(index_keys)))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)

    async def _try_to_put(self, index_keys: Iterable[str]) -> None:
        with contextlib.suppress(StorageError):
            await self.put(index_keys)

    async def delete(self, index_keys: Iterable[str]) -> None:
        """Delete the keys; failures are ignored, since a reader that finds a stale key deletes it."""
        try:
            await self._objects.delete(*sorted(index_keys))
        except StorageError:
            return

    def delete_soon(self, index_keys: Iterable[str]) -> None:
        """Delete the keys in the background."""
        keys = sorted(index_keys)
        if not keys:
            return
        deletion = background(self.delete(keys))
        self._deleting |= dict.fromkeys(keys, deletion)
        deletion.add_done_callback(self._forget)

    async def settled(self) -> None:
        """Wait for every write and deletion in flight."""
        if under_way := {*self._deleting.values(), *self._writing}:
            await asyncio.wait(under_way)

    def _forget(self, deletion: asyncio.Task[None]) -> None:
        for key in [key for key, task in self._deleting.items() if task is deletion]:
            del self._deleting[key]

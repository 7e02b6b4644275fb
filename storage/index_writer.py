"""Writes index keys before a commit, and deletes stale ones in the background after it.

A stale key costs a reader one GET at most, so no response waits for its deletion.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable
from typing import Any

from storage.bucket.budget import background, within_budget
from storage.bucket.objects import ObjectStore
from storage.concurrency import gather
from storage.errors import StorageError


class IndexWriter:
    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._deleting: dict[str, asyncio.Task[None]] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    async def put(self, index_keys: Iterable[str]) -> None:
        """Write the keys in one round."""
        keys = sorted(index_keys)
        # A background deletion of the same key ends first; otherwise it could delete the new key.
        if deletions := {self._deleting[key] for key in keys if key in self._deleting}:
            async with within_budget(keys[0]):
                await asyncio.wait(deletions)
        await gather(*(self._objects.put(key, b"") for key in keys))

    def soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this in the background; failures of the bucket are ignored."""
        task = background(_best_effort(work))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def delete(self, index_keys: Iterable[str]) -> None:
        """Delete the keys. Failures are ignored."""
        try:
            await self._objects.delete(*sorted(index_keys))
        except StorageError:  # a reader that finds a stale key deletes it
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
        """Wait for everything in flight in the background."""
        if under_way := {*self._deleting.values(), *self._under_way}:
            await asyncio.wait(under_way)

    def _forget(self, deletion: asyncio.Task[None]) -> None:
        for key in [key for key, task in self._deleting.items() if task is deletion]:
            del self._deleting[key]


async def _best_effort(work: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(StorageError):
        await work

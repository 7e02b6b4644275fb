"""Writes hints before a commit, and removes old ones after it, when whoever waits for the commit has his answer.

A hint that is still to be removed costs a reader a look at worst, so nobody is kept waiting for that.
"""

import asyncio
from collections.abc import Iterable

from storage.bucket.budget import background, within_budget
from storage.bucket.objects import ObjectStore
from storage.concurrency import gather
from storage.errors import StorageError


class HintWriter:
    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._dropping: dict[str, asyncio.Task[None]] = {}

    async def put(self, hints: Iterable[str]) -> None:
        """A removal of the same key that is under way comes first: it must not hit what is written now."""
        keys = sorted(hints)
        if removals := {self._dropping[key] for key in keys if key in self._dropping}:
            async with within_budget(keys[0]):
                await asyncio.wait(removals)
        await gather(*(self._objects.put(key, b"") for key in keys))

    async def drop(self, hints: Iterable[str]) -> None:
        """Best effort: the commit stands, and a hint that stays is dropped by whoever finds it."""
        try:
            await self._objects.delete(*sorted(hints))
        except StorageError:
            return

    def drop_soon(self, hints: Iterable[str]) -> None:
        """As `drop`, and nobody waits for it."""
        keys = sorted(hints)
        if not keys:
            return
        removal = background(self.drop(keys))
        self._dropping |= dict.fromkeys(keys, removal)
        removal.add_done_callback(self._forget)

    async def settled(self) -> None:
        """Waits for every removal that is under way."""
        if self._dropping:
            await asyncio.wait(set(self._dropping.values()))

    def _forget(self, removal: asyncio.Task[None]) -> None:
        for key in [key for key, task in self._dropping.items() if task is removal]:
            del self._dropping[key]

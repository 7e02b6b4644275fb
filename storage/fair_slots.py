"""A semaphore that is fair between keys, for expensive work.

A slot that is released goes to the keys (tenants, hosts) in turn, so that many requests of one key do not delay the
next request of another.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial


class NoSlot(Exception):
    """Too many callers wait already, or no slot was released in time."""


class FairSlots:
    """`total` slots, at most `each` per key; at most `max_waiting` callers per key wait, each for `wait_s` seconds.

    None means no limit. An instance belongs to one event loop.
    """

    def __init__(
        self, total: int, *, each: int | None = None, max_waiting: int | None = None, wait_s: float | None = None
    ) -> None:
        self._free = total
        self._each = total if each is None else each
        self._max_waiting = max_waiting
        self._wait_s = wait_s
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def slot(self, key: str) -> AsyncIterator[None]:
        """Hold a slot while the context is open. Raises `NoSlot`."""
        leave = await self.enter(key)
        try:
            yield
        finally:
            leave()

    def enter_now(self, key: str) -> Callable[[], None] | None:
        """Do as `enter` if a slot is free for the key; else return None."""
        if not self._may_take(key):
            return None
        self._take(key)
        return partial(self._leave, key)

    async def enter(self, key: str) -> Callable[[], None]:
        """Take a slot and return the function that releases it, to be called once. Raises `NoSlot`."""
        await self._enter(key)
        return partial(self._leave, key)

    async def _enter(self, key: str) -> None:
        if self._may_take(key):
            self._take(key)
            return
        queue = self._waiting.setdefault(key, deque())
        if self._max_waiting is not None and len(queue) >= self._max_waiting:
            raise NoSlot(f"{len(queue)} wait already")
        granted = asyncio.get_running_loop().create_future()
        queue.append(granted)
        try:
            async with asyncio.timeout(self._wait_s):
                # Shielded, since a cancellation would mark the future as done, as if the slot had been granted.
                await asyncio.shield(granted)
        except BaseException as error:
            if granted.done():
                self._leave(key)  # the slot was granted just as the wait ended
            else:
                self._forget(key, granted)
            if isinstance(error, TimeoutError):
                raise NoSlot(f"none got free within {self._wait_s:g} s") from None
            raise

    def _may_take(self, key: str) -> bool:
        # If a slot is free, every waiting key is at its own limit, so a caller with this key overtakes no other.
        return self._free > 0 and self._held[key] < self._each

    def _take(self, key: str) -> None:
        self._free -= 1
        self._held[key] += 1

    def _leave(self, key: str) -> None:
        self._free += 1
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        for waiting in list(self._waiting):
            if not self._free:
                return
            if self._held[waiting] < self._each:
                granted = self._waiting[waiting].popleft()
                queue = self._waiting.pop(waiting)
                if queue:
                    self._waiting[waiting] = queue  # round robin: the key goes behind the others
                self._take(waiting)
                granted.set_result(None)

    def _forget(self, key: str, granted: "asyncio.Future[None]") -> None:
        queue = self._waiting[key]
        queue.remove(granted)
        if not queue:
            del self._waiting[key]

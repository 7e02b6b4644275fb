"""A bounded number of places for work that is dear, shared fairly between those who want one.

A place that gets free goes to the keys (tenants, hosts) in turn, so that many requests of one do not delay the next
request of another.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial


class NoSlot(Exception):
    """As many wait already as may, or none got free in time."""


class FairSlots:
    """`total` places, of which one key has at most `each`; at most `max_waiting` of a key wait, for `wait_s` seconds.

    None stands for no limit. One event loop only.
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
        """A place, for as long as this is entered. Raises `NoSlot`."""
        leave = await self.enter(key)
        try:
            yield
        finally:
            leave()

    async def enter(self, key: str) -> Callable[[], None]:
        """A place, to be left by calling what is returned, once. Raises `NoSlot`."""
        await self._enter(key)
        return partial(self._leave, key)

    async def _enter(self, key: str) -> None:
        # A free place means that every waiting key already holds as many as it may: no one is overtaken.
        if self._free and self._held[key] < self._each:
            self._take(key)
            return
        queue = self._waiting.setdefault(key, deque())
        if self._max_waiting is not None and len(queue) >= self._max_waiting:
            raise NoSlot(f"{len(queue)} wait already")
        granted = asyncio.get_running_loop().create_future()
        queue.append(granted)
        try:
            async with asyncio.timeout(self._wait_s):
                await asyncio.shield(granted)
        except BaseException as error:
            if granted.done():
                self._leave(key)  # it was given at the very moment in which the wait ended
            else:
                self._forget(key, granted)
            if isinstance(error, TimeoutError):
                raise NoSlot(f"none got free within {self._wait_s:g} s") from None
            raise

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
                    self._waiting[waiting] = queue  # behind the other keys
                self._take(waiting)
                granted.set_result(None)

    def _forget(self, key: str, granted: "asyncio.Future[None]") -> None:
        queue = self._waiting[key]
        queue.remove(granted)
        if not queue:
            del self._waiting[key]

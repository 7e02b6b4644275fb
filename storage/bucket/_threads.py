"""Blocking calls to the bucket on a fixed number of threads, which the tenants of an API take in turn.

A caller that stops waiting, by cancellation or because its budget is spent, leaves a call that has begun running: its
thread is taken until the sockets' own timeouts end it. A call that has not begun is dropped. So a bucket that hangs
holds as many threads as there are, and no more.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from storage.bucket.budget import current_owner, while_it_moves, within_budget
from storage.errors import StorageUnavailable
from storage.fair_slots import FairSlots

T = TypeVar("T")


class Threads:
    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="bucket")
        self._places = FairSlots(most)
        self._moved = 0
        self._counting = Lock()

    async def run(self, call: Callable[[], T], what: str) -> T:
        """Within the budget of the request, if there is one: `BudgetSpent`. `StorageUnavailable` after `close`."""
        async with within_budget(what):
            return await self._in_turn(call, what)

    def moved(self, more: int) -> None:
        """Called by a transfer whenever bytes of it have moved, from any thread."""
        with self._counting:
            self._moved += more

    async def transfer(self, call: Callable[[], T], what: str) -> T:
        """As `run`, for as long as bytes move: its own, or those of the transfers that it waits for."""
        work = asyncio.ensure_future(self._in_turn(call, what))
        return await while_it_moves(work, lambda: self._moved, what)

    async def _in_turn(self, call: Callable[[], T], what: str) -> T:
        async with self._places.slot(current_owner()):
            return await self._start(call, what)

    def _start(self, call: Callable[[], T], what: str) -> asyncio.Future[T]:
        try:
            return asyncio.get_running_loop().run_in_executor(self._pool, call)
        except RuntimeError:  # a removal in the background may begin after the process has closed its bucket
            raise StorageUnavailable(f"{what}: the bucket's client is closed") from None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

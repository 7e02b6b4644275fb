"""Runs blocking calls to the bucket on a fixed number of threads, shared fairly between tenants.

If a caller stops waiting, by cancellation or because its budget is used up, a call that has begun runs on: its thread
and its place are occupied until the sockets' own timeouts end it. A call that has not begun is discarded. So a bucket
that hangs occupies at most the fixed number of threads.
"""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from storage.bucket.budget import current_owner, while_it_moves, within_budget
from storage.errors import StorageUnavailable
from storage.fair_slots import FairSlots

T = TypeVar("T")


class Threads:
    def __init__(self, most: int, of_tenant: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="bucket")
        self._places = FairSlots(most, each=of_tenant)
        self._moved = 0
        self._counting = Lock()

    async def run(self, call: Callable[[], T], what: str) -> T:
        """Run a call within the request's budget, if it has one.

        Raises `BudgetSpent`, or `StorageUnavailable` after `close`.
        """
        async with within_budget(what):
            return await self._in_turn(call, what)

    def moved(self, more: int) -> None:
        """Count bytes that a transfer has moved. Called by transfers from any thread."""
        with self._counting:
            self._moved += more

    async def transfer(self, call: Callable[[], T], what: str) -> T:
        """Run a transfer, which may take as long as its bytes move, or those of the transfers that it waits for."""
        work = asyncio.ensure_future(self._in_turn(call, what))
        return await while_it_moves(work, lambda: self._moved, what)

    async def _in_turn(self, call: Callable[[], T], what: str) -> T:
        leave, loop = await self._places.enter(current_owner()), asyncio.get_running_loop()
        try:
            begun = self._pool.submit(call)
        except RuntimeError:  # a background deletion may begin after the process has closed its bucket
            leave()
            raise StorageUnavailable(f"{what}: the bucket's client is closed") from None

        def leave_soon(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(leave)

        # Not where this call ends: while the thread runs on, its place is not free for the tenant's next call.
        begun.add_done_callback(leave_soon)
        return await asyncio.wrap_future(begun)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

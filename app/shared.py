"""Coalesces concurrent identical reads that are expensive: lists, batches and deliveries. Cancellations of a batch too.

No response is older than its request, unless its caller allows an age. A request that arrives during a read waits for
the next read, which it shares with all other requests that arrive meanwhile. So each key is read once at a time,
however many clients poll it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from app.problems import Problem, of_storage
from storage.bucket.budget import budget_of
from storage.concurrency import retrieve
from storage.errors import StorageError
from storage.fair_slots import FairSlots, NoSlot

T = TypeVar("T")

AT_ONCE = 16
"""Concurrent reads of all tenants."""
OF_TENANT = 3
"""Concurrent reads of one tenant: a tenant that requests a hundred different ones gets them in turn."""
MOST_WAITING = 64
"""Different reads of one tenant that wait for a slot. Each holds its request, even after its client disconnects."""
WAIT_S = 30.0
"""Seconds that a read waits for a slot."""


class SharedReads(Generic[T]):
    """Runs each read at most once at a time, in slots that tenants share fairly."""

    def __init__(
        self, *, budget_s: float, total: int = AT_ONCE, each: int = OF_TENANT, max_waiting: int = MOST_WAITING
    ) -> None:
        self._budget_s = budget_s
        self._turns = FairSlots(total, each=each, max_waiting=max_waiting, wait_s=WAIT_S)
        self._begun: dict[Hashable, asyncio.Task[T]] = {}
        self._to_come: dict[Hashable, asyncio.Task[T]] = {}
        self._kept: dict[Hashable, tuple[float, T]] = {}

    async def get(self, tenant: str, key: Hashable, read: Callable[[], Awaitable[T]], *, max_age_s: float = 0) -> T:
        """Return or raise what `read` does. Raises `Problem` if too many reads of the tenant wait.

        With `max_age_s` the result may have been read so long ago. Such keys must be few: each keeps its last result.
        """
        now = asyncio.get_running_loop().time()
        if max_age_s and (kept := self._kept.get((tenant, key))) is not None and now - kept[0] <= max_age_s:
            return kept[1]
        task = self._to_come.get((tenant, key))
        if task is None:
            # A task of its own, because it outlives the request that began it when that client disconnects.
            task = asyncio.create_task(self._run(tenant, key, read))
            task.add_done_callback(retrieve)
            self._to_come[tenant, key] = task
        try:
            # Shielded: a client that disconnects cancels its own wait, not the read that others share.
            found = await asyncio.shield(task)
        except NoSlot as error:
            detail = f"too many of your requests for lists, batches, deliveries or cancellations wait: {error}"
            raise Problem("too-many-requests", detail, headers={"Retry-After": "5"}) from None
        if max_age_s:
            self._kept[tenant, key] = (now, found)  # as old as the request, which came before the read
        return found

    async def _run(self, tenant: str, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        if (before := self._begun.get((tenant, key))) is not None:
            await asyncio.wait({before})  # unlike awaiting the task, this does not raise the error of the earlier read
        # The read has its own budget: the first request's may be nearly spent when later requests join.
        with budget_of(self._budget_s) as budget:
            budget.owner = tenant
            try:
                leave = await self._turns.enter(tenant)
            finally:
                # From here on the read may see old data, so a request that arrives later starts the next read.
                task = self._to_come.pop((tenant, key))
            self._begun[tenant, key] = task
            try:
                return await read()
            except StorageError as error:
                if budget.may_have_written:  # the waiting requests have budgets of their own, which do not know
                    raise of_storage(error, may_have_written=True) from None
                raise
            finally:
                del self._begun[tenant, key]
                leave()

"""Answers that are much work, made once for all requests that ask for the same at the same time.

No answer is older than its request: one that comes while the answer is being made gets the next one, which all that
come meanwhile share. So a thing is read once at a time, whatever number of clients poll it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from storage.bucket.budget import budget_of
from storage.fair_slots import FairSlots

T = TypeVar("T")

AT_ONCE = 16
OF_TENANT = 3
"""Of the answers that are being made: a tenant that asks for a hundred different ones gets them in turn."""


class SharedReads(Generic[T]):
    def __init__(self, *, budget_s: float, total: int = AT_ONCE, each: int = OF_TENANT) -> None:
        self._budget_s = budget_s
        self._turns = FairSlots(total, each=each)
        self._begun: dict[Hashable, asyncio.Task[T]] = {}
        self._to_come: dict[Hashable, asyncio.Task[T]] = {}

    async def get(self, tenant: str, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` returns or raises; a client that goes away does not end it for the others."""
        task = self._to_come.get((tenant, key))
        if task is None:
            task = asyncio.create_task(self._run(tenant, key, read))
            self._to_come[tenant, key] = task
        return await asyncio.shield(task)

    async def _run(self, tenant: str, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        if (before := self._begun.get((tenant, key))) is not None:
            await asyncio.wait({before})
        # A budget of its own: that of the request which came first is not to be spent by the others.
        with budget_of(self._budget_s) as budget:
            budget.owner = tenant
            async with self._turns.slot(tenant):
                self._begun[tenant, key] = self._to_come.pop((tenant, key))
                try:
                    return await read()
                finally:
                    del self._begun[tenant, key]

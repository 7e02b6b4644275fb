"""Answers that are much work, made once for all requests that ask for the same at the same time.

No answer is older than its request: one that comes while the answer is being made gets the next one, which all that
come meanwhile share. So a thing is read once at a time, whatever number of clients poll it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from app.problems import Problem
from storage.bucket.budget import budget_of
from storage.fair_slots import FairSlots, NoSlot

T = TypeVar("T")

AT_ONCE = 16
OF_TENANT = 3
"""Of the answers that are being made: a tenant that asks for a hundred different ones gets them in turn."""
MOST_WAITING = 64
"""Different answers of one tenant that wait for their turn: each holds its request, also when its client has gone."""
WAIT_S = 30.0
"""How long they wait."""


class SharedReads(Generic[T]):
    def __init__(
        self, *, budget_s: float, total: int = AT_ONCE, each: int = OF_TENANT, max_waiting: int = MOST_WAITING
    ) -> None:
        self._budget_s = budget_s
        self._turns = FairSlots(total, each=each, max_waiting=max_waiting, wait_s=WAIT_S)
        self._begun: dict[Hashable, asyncio.Task[T]] = {}
        self._to_come: dict[Hashable, asyncio.Task[T]] = {}

    async def get(self, tenant: str, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` returns or raises; a client that goes away does not end it for the others. `Problem` where too
        many wait.
        """
        task = self._to_come.get((tenant, key))
        if task is None:
            task = asyncio.create_task(self._run(tenant, key, read))
            self._to_come[tenant, key] = task
        try:
            return await asyncio.shield(task)
        except NoSlot as error:
            detail = f"too many of your requests for lists, batches or deliveries wait: {error}"
            raise Problem("too-many-requests", detail, headers={"Retry-After": "5"}) from None

    async def _run(self, tenant: str, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        if (before := self._begun.get((tenant, key))) is not None:
            await asyncio.wait({before})
        # A budget of its own: that of the request which came first is not to be spent by the others.
        with budget_of(self._budget_s) as budget:
            budget.owner = tenant
            try:
                leave = await self._turns.enter(tenant)
            finally:
                task = self._to_come.pop((tenant, key))
            self._begun[tenant, key] = task
            try:
                return await read()
            finally:
                del self._begun[tenant, key]
                leave()

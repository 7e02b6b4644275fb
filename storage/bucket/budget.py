"""The time budget of one API request for bucket calls, and the tenant on whose behalf they are made.

The budget belongs to a context (`contextvars`), so code between a route and the bucket does not pass it on. Overlapping
waits count once. Without a budget, as in workers, deliverer and reaper, calls wait as long as the adapter does. Only
waits for the bucket count: not a request's body, a long poll's pause or a user's URL.
"""

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from storage.errors import BudgetSpent

T = TypeVar("T")


class Budget:
    """`may_have_written`: a conditional write was sent, so its result is unknown after a failure."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.owner = ""
        """The tenant, once it is known. Threads are shared fairly between owners."""
        self.may_have_written = False
        self._spent_s = 0.0
        self._waits = 0
        self._since = 0.0

    @property
    def left_s(self) -> float:
        running = time.monotonic() - self._since if self._waits else 0.0
        return self.seconds - self._spent_s - running

    @contextmanager
    def spending(self) -> Iterator[None]:
        if not self._waits:
            self._since = time.monotonic()
        self._waits += 1
        try:
            yield
        finally:
            self._waits -= 1
            if not self._waits:
                self._spent_s += time.monotonic() - self._since


_current: contextvars.ContextVar[Budget | None] = contextvars.ContextVar("bucket_budget", default=None)


@contextmanager
def budget_of(seconds: float) -> Iterator[Budget]:
    """Give the code in this context, and the tasks that it awaits, one budget."""
    budget = Budget(seconds)
    token = _current.set(budget)
    try:
        yield budget
    finally:
        _current.reset(token)


_tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="")


@contextmanager
def on_behalf_of(tenant: str) -> Iterator[None]:
    """Give bucket calls an owner where no request has named its tenant. It does not change their budget."""
    token = _tenant.set(tenant)
    try:
        yield
    finally:
        _tenant.reset(token)


def current_owner() -> str:
    """Return on whose behalf bucket calls are made; empty if that is unknown, as in the lookup of a new API key."""
    budget = _current.get()
    named = "" if budget is None else budget.owner
    return named or _tenant.get()


@asynccontextmanager
async def within_budget(what: str) -> AsyncIterator[None]:
    """Limit one wait by the budget. Raises `BudgetSpent`, whose message names `what`, the key."""
    budget = _current.get()
    if budget is None:
        yield
        return
    with budget.spending():
        if budget.left_s <= 0:
            raise BudgetSpent(f"{what}: not asked, {budget.seconds:g} s were spent on the bucket before")
        try:
            async with asyncio.timeout(budget.left_s):
                yield
        except TimeoutError:
            raise BudgetSpent(f"{what}: no answer within the {budget.seconds:g} s of this request") from None


def allow_more(seconds: float) -> None:
    """Extend the budget of a request that makes many calls, so that their number alone does not exhaust it."""
    if (budget := _current.get()) is not None:
        budget.seconds += seconds


def note_write() -> None:
    """Record that a conditional write is about to be sent."""
    if (budget := _current.get()) is not None:
        budget.may_have_written = True


async def while_it_moves(work: asyncio.Future[T], moved: Callable[[], int], what: str) -> T:
    """Return the result of a transfer. Only pauses count against the budget, not the time in which bytes move.

    `moved` returns the number of bytes so far.
    """
    budget = _current.get()
    if budget is None:
        return await work
    try:
        while True:
            before = moved()
            done, _ = await asyncio.wait({work}, timeout=max(0.0, budget.left_s))
            if done:
                return work.result()
            # Bytes of other transfers count as well, since this one may wait for its turn behind them.
            if moved() == before:
                raise BudgetSpent(f"{what}: no byte moved for {budget.seconds:g} s")
    finally:
        work.cancel()


def background(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task that outlives its request and is therefore outside the request's budget."""
    context = contextvars.copy_context()
    context.run(_current.set, None)
    return asyncio.create_task(work, context=context)

"""Bounds how long one tenant's requests compute in the event loop while others need it.

Every step of a request in the event loop delays all other requests. Limits bound a step, but a few connections that
repeat the most expensive one could still fill the loop. Therefore the time of each tenant's steps is added up, also
those of the tasks that its requests start. In an iteration of the loop a tenant makes steps for some milliseconds, and
the others of that iteration follow in the next ones. While others are active too, its next requests begin when its
share of the time allows it.
"""

import asyncio
import contextvars
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from storage.fair_slots import FairSlots

T = TypeVar("T")

SHARE = 0.5
"""The part of the time that one tenant's requests may compute in the loop while others are active."""
BURST_S = 0.05
"""Seconds that a tenant's steps may take beyond its share before its next requests wait."""
ITERATION_S = 0.01
"""Seconds after which a tenant makes no further step in an iteration of the loop."""
CALLED_AT_ONCE = 16
"""Steps put off that are tried again in an iteration. To try them all would cost time even where none is made."""
ACTIVE_S = 1.0
"""Seconds for which a group counts as active after one of its requests began."""
SHORTEST_S = 0.001
"""The shortest sleep of a request that waits, in seconds."""
WAIT_S = 30
"""Seconds that a request waits for its tenant's requests that came before it."""


@dataclass(frozen=True, slots=True)
class Debt:
    """Seconds of a group's steps beyond its share, at a time. It shrinks by `SHARE` seconds a second."""

    seconds: float
    at: float

    def left(self, now: float) -> float:
        return max(0.0, self.seconds - SHARE * (now - self.at))


@dataclass(frozen=True, slots=True)
class PutOff:
    """A group's steps that wait, in order: those that were called too late in their iteration, then the others."""

    again: list[asyncio.Future[None]] = field(default_factory=list)
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class LoopShares:
    """The time that each group (a tenant, all clients without a key, or the probes) computes in one event loop.

    `now` is a clock in seconds: what counts is how long a step keeps others waiting, on a busy machine as well.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wait_s: float = WAIT_S,
    ) -> None:
        self.now = now
        self._sleep = sleep
        # Groups are tenants that have a valid key, so there are few.
        self._debts: dict[str, Debt] = {}
        self._in_iteration: dict[str, float] = {}
        self._put_off: dict[str, PutOff] = {}
        self._queues = FairSlots(sys.maxsize, each=1, wait_s=wait_s)
        # The group of the newest request, and when the newest request of any other group began.
        self._newest, self._newest_at, self._others_at = "", -ACTIVE_S, -ACTIVE_S

    def note_arrival(self, group: str) -> None:
        """Count the group as active."""
        if group != self._newest:
            self._newest, self._others_at = group, self._newest_at
        self._newest_at = self.now()

    async def turn(self, group: str) -> None:
        """Return when the group is within its share or no other group is active, in the order of the calls.

        Raises `NoSlot` after `wait_s` seconds.
        """
        self.note_arrival(group)
        async with self._queues.slot(group):
            while self._has_rivals(group) and (beyond := self._debt(group) - BURST_S) > 0:
                await self._sleep(min(max(beyond / SHARE, SHORTEST_S), ACTIVE_S))

    def may_step(self, group: str, *, was_put_off: bool = False) -> bool:
        """Whether a request of the group may make a step in this iteration of the loop; steps put off come first."""
        return self._in_iteration.get(group, 0.0) < ITERATION_S and (was_put_off or group not in self._put_off)

    def put_off(self, group: str, *, again: bool = False) -> asyncio.Future[None]:
        """Return a future that completes when the step may be tried again. Steps keep their order."""
        turn = asyncio.get_running_loop().create_future()
        steps = self._put_off.setdefault(group, PutOff())
        (steps.again if again else steps.waiting).append(turn)
        return turn

    def charge(self, group: str, seconds: float) -> None:
        """Add the time of a step that a request of the group has made."""
        if group not in self._in_iteration:
            # A callback runs in the next iteration.
            asyncio.get_running_loop().call_soon(self._begin_iteration, group)
        self._in_iteration[group] = self._in_iteration.get(group, 0.0) + seconds
        if self._has_rivals(group):
            self._debts[group] = Debt(self._debt(group) + seconds, self.now())

    def _begin_iteration(self, group: str) -> None:
        """Call the first steps that were put off, which are tried before the next call of this method."""
        called, steps = 0, self._put_off.get(group, PutOff())
        steps.waiting.extendleft(reversed(steps.again))
        steps.again.clear()
        while steps.waiting and called < CALLED_AT_ONCE:
            turn = steps.waiting.popleft()
            if not turn.done():  # its task was cancelled
                turn.set_result(None)
                called += 1
        if called:
            self._in_iteration[group] = 0.0
            asyncio.get_running_loop().call_soon(self._begin_iteration, group)
        else:
            del self._in_iteration[group]
            self._put_off.pop(group, None)

    def _debt(self, group: str) -> float:
        debt = self._debts.get(group)
        return 0.0 if debt is None else debt.left(self.now())

    def _has_rivals(self, group: str) -> bool:
        last = self._others_at if group == self._newest else self._newest_at
        return self.now() - last < ACTIVE_S


@dataclass(frozen=True, slots=True)
class Payer:
    """Whose share pays for the steps of a task."""

    shares: LoopShares
    group: str


_payer: contextvars.ContextVar[Payer | None] = contextvars.ContextVar("payer", default=None)


class Metered(Coroutine[Any, None, T]):
    """A coroutine each of whose steps is charged, and put off if the group made too many in this iteration."""

    def __init__(self, work: Coroutine[Any, Any, T], payer: Payer) -> None:
        self._work = work
        self._shares, self._group = payer.shares, payer.group
        self._was_put_off = False

    def send(self, value: None) -> Any:
        if not self._shares.may_step(self._group, was_put_off=self._was_put_off):
            turn = self._shares.put_off(self._group, again=self._was_put_off)
            self._was_put_off = True
            return next(turn.__await__())  # what `await turn` gives to the task, which continues when it is done
        return self._charged(self._work.send, value)

    def throw(self, *failure: Any) -> Any:
        # Not put off: a cancellation must not wait for other steps of the group.
        try:
            return self._charged(self._work.throw, *failure)
        finally:
            del failure  # see _charged

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, None, T]:
        return self  # `await` uses `__next__`, `send`, `throw` and `close` of what this returns

    def __next__(self) -> Any:
        return self.send(None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)  # `cr_frame` and the like: anyio asks for them, and so do debuggers

    def _charged(self, step: Callable[..., Any], *given: Any) -> Any:
        self._was_put_off = False
        started = self._shares.now()
        try:
            return step(*given)
        finally:
            self._shares.charge(self._group, self._shares.now() - started)
            # The traceback of a thrown exception refers to this frame. In a cycle, all that its frames hold, such as
            # the records of a cancelled wait, would stay in memory until a full garbage collection.
            del given


async def metered(shares: LoopShares, group: str, work: Awaitable[T]) -> T:
    """Await `work` and charge its steps to the group, as those of all tasks that it starts.

    A loop with a task factory of its own keeps that; then the steps of such tasks are not charged.
    """
    loop, payer = asyncio.get_running_loop(), Payer(shares, group)
    if _payer.get() == payer:  # uvicorn starts a pipelined request in the context of the one before
        return await work
    if loop.get_task_factory() is None:
        loop.set_task_factory(_task)
    token = _payer.set(payer)
    try:
        return await Metered(_awaited(work), payer)
    finally:
        _payer.reset(token)


async def _awaited(work: Awaitable[T]) -> T:
    return await work


def _task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task at the expense of the request that starts it, if one does."""
    payer = _payer.get()
    if payer is not None and asyncio.iscoroutine(work):
        work = Metered(work, payer)
    return asyncio.Task(work, loop=loop, **options)

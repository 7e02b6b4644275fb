"""Bounds how long one tenant's requests compute in the event loop while others need it.

Every step of a request in the event loop delays all other requests. Limits bound a step, but a few connections that
repeat the most expensive one could still fill the loop. Therefore the time of each tenant's steps is added up. In an
iteration of the loop a tenant makes steps for some milliseconds, and the others of that iteration follow in the next
ones. While others are active too, its next requests begin when its share of the time allows it.
"""

import asyncio
import sys
import time
import types
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any

from storage.fair_slots import FairSlots

SHARE = 0.5
"""The part of the time that one tenant's requests may compute in the loop while others are active."""
BURST_S = 0.05
"""Seconds that a tenant's steps may take beyond its share before its next requests wait."""
ITERATION_S = 0.01
"""Seconds after which a tenant makes no further step in an iteration of the loop."""
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

    def may_step(self, group: str) -> bool:
        """Whether a request of the group may make a step in this iteration of the loop."""
        return self._in_iteration.get(group, 0.0) < ITERATION_S

    def charge(self, group: str, seconds: float) -> None:
        """Add the time of a step that a request of the group has made."""
        if group not in self._in_iteration:
            # A callback runs in the next iteration, before the steps that were put off in this one.
            asyncio.get_running_loop().call_soon(self._in_iteration.pop, group)
        self._in_iteration[group] = self._in_iteration.get(group, 0.0) + seconds
        if self._has_rivals(group):
            self._debts[group] = Debt(self._debt(group) + seconds, self.now())

    def _debt(self, group: str) -> float:
        debt = self._debts.get(group)
        return 0.0 if debt is None else debt.left(self.now())

    def _has_rivals(self, group: str) -> bool:
        last = self._others_at if group == self._newest else self._newest_at
        return self.now() - last < ACTIVE_S


@types.coroutine
def metered(shares: LoopShares, group: str, work: Awaitable[None]) -> Generator[Any, None, None]:
    """Await `work`, charge each of its steps to the group, and put steps off that are too many for one iteration."""
    steps, failure = work.__await__(), None
    while True:
        while failure is None and not shares.may_step(group):
            try:
                yield  # to the event loop, as asyncio.sleep(0) does
            except BaseException as error:
                failure = error
        started = shares.now()
        try:
            awaited = steps.send(None) if failure is None else steps.throw(failure)
        except StopIteration:
            return
        finally:
            shares.charge(group, shares.now() - started)
        failure = None
        try:
            yield awaited
        except BaseException as error:  # a failure of what is awaited, or the cancellation of the request
            failure = error

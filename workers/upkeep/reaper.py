"""The reaper: each sweep completes what a dead process left undone.

The due timers of a lane are handled in turns of their tenants, and the lanes take turns. After each turn both are
listed again, so that neither one tenant's many batches nor many removals delay another tenant's lost job or deadline,
which may become due in the meantime. A sweep is idempotent, and any number of sweeps may overlap: the records decide
what it does, and conditional writes commit it. Timers are ordered by time, so on a quiet bucket a sweep costs three
LISTs, however many jobs have finished.

A reaper whose clock is fast would take the running jobs of all tenants from their workers. So each LIST compares it
with the bucket's, and a sweep ends while it is ahead.
"""

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from storage.bucket.budget import on_behalf_of
from storage.bucket.clock_skew import SET_CLOCK, clock_fault, dated_list
from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import ClockWrong, PreconditionFailed, StorageError
from storage.timers import LANES, Kind, Lane, Timer, TimerHandler, lane_prefix

logger = logging.getLogger(__name__)

PAGE = 1000
AT_A_TIME = 100
"""Timers of a lane that are handled before the other lane and what has become due meanwhile."""
TURN = timedelta(seconds=5)
"""After this time no handler of a lane's turn begins; its other timers wait for the next turn."""
HELD = 10_000
"""Due timers of one tenant that a sweep holds, more than it can handle; the next sweeps list the others."""
LONGEST = timedelta(seconds=60)
"""After this time no handler of a sweep begins, so that many timers do not delay the backlog. The next sweep
continues."""


class Duty(Protocol):
    """One task of the reaper: the timers or the backlog."""

    async def sweep(self) -> Sequence[str]:
        """Return the actions taken, one word each."""
        ...


class Reaper:
    def __init__(self, *duties: Duty) -> None:
        self._duties = duties

    async def sweep(self) -> Counter[str]:
        """Run each duty once; the failure of one does not keep the others from running."""
        done: Counter[str] = Counter()
        for duty in self._duties:
            try:
                done.update(await duty.sweep())
            except ClockWrong as error:
                logger.error("nothing is swept: %s", error)  # noqa: TRY400  the traceback says nothing more
                break  # the other duties would go by the same clock
            except StorageError as error:
                logger.warning("a part of the sweep failed, the next sweep will do its work: %s", error)
            except Exception:  # a defect in one duty must not leave the jobs of the others without recovery
                logger.exception("a part of the sweep failed")
        if done:
            logger.info("swept", extra=dict(done))
        return done


class TimerSweep:
    """Calls the handlers of the timers that are due. `handlers` has one for each kind of timer in the bucket."""

    def __init__(
        self, handlers: Mapping[Kind, TimerHandler], objects: ObjectStore, clock: Clock, *, lease_s: float
    ) -> None:
        self._handlers = handlers
        self._objects = objects
        self._clock = clock
        self._lease_s = lease_s

    async def sweep(self) -> list[str]:
        """Handle the due timers and return the kind of each one that was finished.

        Raises `ClockWrong` before the first one if this machine's clock is ahead of the bucket's.
        """
        done: list[str] = []
        lanes = [_Due(lane) for lane in LANES]
        until = self._clock.now() + LONGEST
        while self._clock.now() < until:
            for due in lanes:
                await self._list(due)
                done += await self._turn(due.turns, until)
            if not any(due.turns for due in lanes):
                break
        return done

    async def _turn(self, turns: "_Turns", until: datetime) -> list[str]:
        """Handle the next timers of a lane, and return the kinds of those that were finished."""
        until = min(self._clock.now() + TURN, until)
        handled = await map_bounded(range(AT_A_TIME), lambda _: self._handle_next(turns, until=until))
        return [kind for kind in handled if kind is not None]

    async def _list(self, due: "_Due") -> None:
        """Add the due timers of a lane that no earlier turn has listed."""
        # Timers are ordered by time, so what has become due since comes after them.
        after, more = due.listed_to, True
        while more:
            page, ahead_s = await dated_list(self._objects, self._clock, lane_prefix(due.lane), after=after, limit=PAGE)
            self._check_clock(ahead_s)
            now = self._clock.now()
            for key in page.keys:
                timer = _parsed(key)
                if timer is not None:
                    if timer.due > now:
                        return
                    due.listed_to = key
                due.turns.add("" if timer is None else timer.tenant, key)
            more, after = page.more, page.keys[-1] if page.keys else ""  # without keys it is the last page

    def _check_clock(self, ahead_s: float | None) -> None:
        # A clock that is behind only delays what is due.
        fault = clock_fault(ahead_s, self._lease_s)
        if fault is not None and ahead_s is not None and ahead_s > 0:
            raise ClockWrong(f"{fault}: {SET_CLOCK}")

    async def _handle_next(self, turns: "_Turns", *, until: datetime) -> str | None:
        """Handle the next timer, see `_handle`, unless it is later than `until`."""
        # A hundred batches take minutes, so the limit holds within a turn.
        if not turns or self._clock.now() >= until:
            return None
        tenant, key = turns.next()
        with on_behalf_of(tenant):  # tenants take turns in the threads of the bucket as well
            return await self._handle(key)

    async def _handle(self, key: str) -> str | None:
        """Handle one timer and return its kind; return None if the timer stays."""
        timer = _parsed(key)
        if timer is None:
            await self._objects.delete(key)
            return "unknown"
        try:
            again = await self._handlers[timer.kind].on_due(timer)
            if again == timer:
                return None
            # The next timer is written before this one is deleted, so that a crash leaves one of them.
            if again is not None:
                await self._objects.put(again.key, b"")
            await self._objects.delete(key)
        except PreconditionFailed:
            return None
        except StorageError as error:
            logger.warning("the timer of %s %s is left to the next sweep: %s", timer.kind, timer.id, error)
            return None
        except Exception:  # a defect in one record must not delay the timers behind it
            logger.exception("the timer of %s %s failed", timer.kind, timer.id)
            return None
        return timer.kind


class _Turns:
    """Keys of due timers by tenant, each tenant's soonest first."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, deque[str]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def add(self, tenant: str, key: str) -> None:
        keys = self._tenants.setdefault(tenant, deque())
        if len(keys) < HELD:
            keys.append(key)

    def next(self) -> tuple[str, str]:
        """Remove the first key of the tenant whose turn it is, and return that tenant and the key."""
        tenant, keys = self._tenants.popitem(last=False)
        key = keys.popleft()
        if keys:
            self._tenants[tenant] = keys
        return tenant, key


@dataclass(slots=True)
class _Due:
    """The due timers of a lane. `listed_to` is the key of the last one that was listed."""

    lane: Lane
    turns: _Turns = field(default_factory=_Turns)
    listed_to: str = ""


def _parsed(key: str) -> Timer | None:
    try:
        return Timer.parse(key)
    except ValueError:
        return None

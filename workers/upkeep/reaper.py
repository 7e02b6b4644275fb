"""The reaper: each sweep completes what a dead process left undone.

The due timers of a lane are handled in turns of their tenants, so that one tenant's many batches do not delay another's
lost job. A sweep is idempotent, and any number of sweeps may overlap: the records decide what it does, and conditional
writes commit it. Timers are ordered by time, so on a quiet bucket a sweep costs three LISTs, however many jobs have
finished.

A reaper whose clock is fast would take the running jobs of all tenants from their workers. So each LIST compares it
with the bucket's, and a sweep ends while it is ahead.
"""

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from storage.bucket.clock_skew import SET_CLOCK, clock_fault, dated_list
from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import ClockWrong, PreconditionFailed, StorageError
from storage.timers import LANES, Kind, Lane, Timer, TimerHandler, lane_prefix

logger = logging.getLogger(__name__)

PAGE = 1000
AT_A_TIME = 100
"""Timers that are handled before the time is looked at again."""
HELD = 10_000
"""Due timers of one tenant that a sweep holds, more than it can handle; the next sweeps list the others."""
LONGEST = timedelta(seconds=60)
"""After this time no handler of a lane begins, so that many removals do not delay the recovery of lost jobs. The next
sweep continues."""


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
        for lane in LANES:
            done += await self._sweep_lane(lane)
        return done

    async def _sweep_lane(self, lane: Lane) -> list[str]:
        done: list[str] = []
        due = await self._due(lane)
        until = self._clock.now() + LONGEST
        while due and self._clock.now() < until:
            handled = await map_bounded(due.next_ones(AT_A_TIME), partial(self._handle, until=until))
            done += [kind for kind in handled if kind is not None]
        return done

    async def _due(self, lane: Lane) -> "_Turns":
        """List the due timers of a lane."""
        turns, after, more = _Turns(), "", True
        while more:
            page, ahead_s = await dated_list(self._objects, self._clock, lane_prefix(lane), after=after, limit=PAGE)
            self._check_clock(ahead_s)
            now = self._clock.now()
            for key in page.keys:
                timer = _parsed(key)
                if timer is not None and timer.due > now:
                    return turns
                turns.add("" if timer is None else timer.tenant, key)
            more, after = page.more, page.keys[-1] if page.keys else ""  # without keys it is the last page
        return turns

    def _check_clock(self, ahead_s: float | None) -> None:
        # A clock that is behind only delays what is due.
        fault = clock_fault(ahead_s, self._lease_s)
        if fault is not None and ahead_s is not None and ahead_s > 0:
            raise ClockWrong(f"{fault}: {SET_CLOCK}")

    async def _handle(self, key: str, *, until: datetime) -> str | None:
        """Handle one timer and return its kind; return None if the timer stays, as it does after `until`."""
        if self._clock.now() >= until:
            return None  # a page of batches takes minutes, so the limit holds within it
        try:
            timer = Timer.parse(key)
        except ValueError:
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

    def next_ones(self, most: int) -> list[str]:
        """Remove and return at most so many keys, one of each tenant in turn."""
        found: list[str] = []
        while self._tenants and len(found) < most:
            tenant, keys = self._tenants.popitem(last=False)
            found.append(keys.popleft())
            if keys:
                self._tenants[tenant] = keys
        return found


def _parsed(key: str) -> Timer | None:
    try:
        return Timer.parse(key)
    except ValueError:
        return None

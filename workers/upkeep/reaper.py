"""The reaper: each sweep completes what a dead process left undone.

A sweep is idempotent, and any number of sweeps may overlap: the records decide what it does, and conditional writes
commit it. Timers are ordered by time, so on a quiet bucket a sweep costs three LISTs, however many jobs have finished.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from storage.bucket.objects import ObjectStore, all_keys
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import PreconditionFailed, StorageError
from storage.timers import LANES, Kind, Lane, Timer, TimerHandler, lane_prefix

logger = logging.getLogger(__name__)

PAGE = 100
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
            except StorageError as error:
                logger.warning("a part of the sweep failed, the next sweep will do its work: %s", error)
            except Exception:  # a defect in one duty must not leave the jobs of the others without recovery
                logger.exception("a part of the sweep failed")
        if done:
            logger.info("swept", extra=dict(done))
        return done


class TimerSweep:
    """Calls the handlers of the timers that are due. `handlers` has one for each kind of timer in the bucket."""

    def __init__(self, handlers: Mapping[Kind, TimerHandler], objects: ObjectStore, clock: Clock) -> None:
        self._handlers = handlers
        self._objects = objects
        self._clock = clock

    async def sweep(self) -> list[str]:
        """Handle the due timers and return the kind of each one that was finished."""
        done: list[str] = []
        for lane in LANES:
            done += await self._sweep_lane(lane)
        return done

    async def _sweep_lane(self, lane: Lane) -> list[str]:
        done: list[str] = []
        until = self._clock.now() + LONGEST
        async for keys in all_keys(self._objects, lane_prefix(lane), page=PAGE):
            due = [key for key in keys if _is_due(key, self._clock.now())]
            handled = await map_bounded(due, partial(self._handle, until=until))
            done += [kind for kind in handled if kind is not None]
            if len(due) < len(keys) or self._clock.now() >= until:
                break
        return done

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


def _is_due(key: str, now: datetime) -> bool:
    try:
        return Timer.parse(key).due <= now
    except ValueError:
        return True

"""The sweep over the timers that are due.

Timers are in the order of their time, so a sweep of a bucket where nothing is due is one LIST a lane, however many
there are.
"""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta

from storage.bucket.objects import ObjectStore, all_keys
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import PreconditionFailed, StorageError
from storage.timers import LANES, Kind, Lane, Timer, TimerHandler, lane_prefix

logger = logging.getLogger(__name__)

PAGE = 100
LONGEST = timedelta(seconds=60)
"""Of one sweep of a lane; the next one goes on. Many removals do not delay the recovery of lost jobs for longer."""


class TimerSweep:
    def __init__(self, handlers: Mapping[Kind, TimerHandler], objects: ObjectStore, clock: Clock) -> None:
        self._handlers = handlers
        self._objects = objects
        self._clock = clock

    async def sweep(self) -> list[str]:
        """The kinds of the timers that were done with, one each."""
        done: list[str] = []
        for lane in LANES:
            done += await self._sweep_lane(lane)
        return done

    async def _sweep_lane(self, lane: Lane) -> list[str]:
        done: list[str] = []
        until = self._clock.now() + LONGEST
        async for keys in all_keys(self._objects, lane_prefix(lane), page=PAGE):
            due = [key for key in keys if _is_due(key, self._clock.now())]
            done += [kind for kind in await map_bounded(due, self._handle) if kind is not None]
            if len(due) < len(keys) or self._clock.now() >= until:
                break
        return done

    async def _handle(self, key: str) -> str | None:
        """None if the timer stays."""
        try:
            timer = Timer.parse(key)
        except ValueError:
            await self._objects.delete(key)
            return "unknown"
        try:
            again = await self._handlers[timer.kind].on_due(timer)
            if again == timer:
                return None
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

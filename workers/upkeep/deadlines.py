"""What is due: queue limits, retention, submissions that were left, batches, uploads and Idempotency-Keys.

Deadlines lie in the order of their time, so a look at a bucket where nothing is due is one LIST of one page, however
many there are. What is to be done at a deadline, the thing itself tells; a deadline is dropped after that is done.
"""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Protocol

from storage.bucket.objects import ObjectStore, all_keys
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import PreconditionFailed, StorageError
from storage.hint_keys import DEADLINES, Deadline, Kind

logger = logging.getLogger(__name__)

PAGE = 100
LONGEST = timedelta(seconds=60)
"""Of one sweep; the next one goes on. However many jobs end their time at once, those that lost their worker and
those that wait for one are looked after in between."""


class Keeper(Protocol):
    """Knows one kind of thing."""

    async def look(self, deadline: Deadline) -> datetime | None:
        """Do what is due; returns when to look again. `PreconditionFailed` if it changes at this very moment."""
        ...


class Deadlines:
    def __init__(self, keepers: Mapping[Kind, Keeper], objects: ObjectStore, clock: Clock) -> None:
        self._keepers = keepers
        self._objects = objects
        self._clock = clock

    async def sweep(self) -> list[str]:
        """What was looked at, by kind."""
        done: list[str] = []
        until = self._clock.now() + LONGEST
        async for keys in all_keys(self._objects, DEADLINES, page=PAGE):
            due = [key for key in keys if _is_due(key, self._clock.now())]
            done += [kind for kind in await map_bounded(due, self._look) if kind is not None]
            if len(due) < len(keys) or self._clock.now() >= until:
                return done
        return done

    async def _look(self, key: str) -> str | None:
        """None if it was left to the next sweep."""
        try:
            deadline = Deadline.parse(key)
        except ValueError:
            await self._objects.delete(key)
            return "unknown"
        try:
            again = await self._keepers[deadline.kind].look(deadline)
            next_key = None if again is None else Deadline(again, deadline.kind, deadline.tenant, deadline.id).key
            if next_key is not None:
                await self._objects.put(next_key, b"")
            if next_key != key:
                await self._objects.delete(key)
        except PreconditionFailed:
            return None
        except StorageError as error:
            logger.warning("%s %s could not be looked after this time: %s", deadline.kind, deadline.id, error)
            return None
        except Exception:  # what is due behind it does not wait for it
            logger.exception("%s %s could not be looked after", deadline.kind, deadline.id)
            return None
        return deadline.kind


def _is_due(key: str, now: datetime) -> bool:
    try:
        return Deadline.parse(key).due <= now
    except ValueError:
        return True

"""`Clock`: the only source of wall-clock time in `app`, `workers` and `storage`, so that tests control it."""

from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from cachetools import TTLCache


class Clock(Protocol):
    def now(self) -> datetime:
        """Return the wall-clock time in UTC."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class ManualClock:
    """A clock that moves only when a test sets it."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def set(self, moment: datetime) -> None:
        self._now = moment


def expiring_cache(clock: Clock, life: timedelta, *, size: int = 1024) -> TTLCache[str, Any]:
    """Return a cache that keeps at most `size` values for `life` by this clock, with LRU eviction."""
    return TTLCache(size, life.total_seconds(), timer=lambda: clock.now().timestamp())

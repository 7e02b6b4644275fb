"""A cache with a short lifetime, for values that every request would otherwise read from the bucket."""

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from storage.clock import Clock

V = TypeVar("V")


class ShortLived(Generic[V]):
    """Keeps at most `size` values, each for `life`, with LRU eviction."""

    def __init__(self, clock: Clock, *, life: timedelta, size: int = 1024) -> None:
        self._clock = clock
        self._life = life
        self._size = size
        self._values: OrderedDict[str, tuple[datetime, V]] = OrderedDict()

    def get(self, key: str) -> tuple[V] | None:
        """Return the value in a tuple, since it may itself be None; return None if no fresh value is cached."""
        kept = self._values.get(key)
        if kept is None or self._clock.now() - kept[0] > self._life:
            return None
        self._values.move_to_end(key)
        return (kept[1],)

    def put(self, key: str, value: V) -> None:
        self._values[key] = (self._clock.now(), value)
        self._values.move_to_end(key)
        if len(self._values) > self._size:
            self._values.popitem(last=False)

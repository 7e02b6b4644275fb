"""How long the engines of a pool computed and how long they waited, as their workers count it.

Each worker replaces its own counts now and then. There is a fixed number of objects, and workers share them by their
names, so nothing has to be removed: of workers that share one, the last writer counts.
"""

import logging
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cachetools import TTLCache

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.bucket.records import Model, read_as
from storage.clock import Clock, expiring_cache
from storage.concurrency import map_bounded
from storage.errors import ObjectNotFound, RecordUnreadable

logger = logging.getLogger(__name__)

PLACES = 64
"""Objects per pool: the number of workers that are summed at most."""
COUNTED_FOR = timedelta(days=1)
"""How long a worker's counts are summed after their last change."""
CACHE_LIFE = timedelta(seconds=15)


class WorkerUse(Model):
    """Seconds since the worker's engine was first ready."""

    worker: str
    at: datetime
    computed_s: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class EngineUse:
    """The sum of a pool's workers."""

    workers: int = 0
    computed_s: float = 0.0
    idle_s: float = 0.0

    @classmethod
    def of(cls, uses: Iterable[WorkerUse]) -> "EngineUse":
        counted = list(uses)
        return cls(len(counted), sum(use.computed_s for use in counted), sum(use.idle_s for use in counted))

    @property
    def computed_share(self) -> float | None:
        """The share of the engines' time that computed; None if no time is known."""
        total = self.computed_s + self.idle_s
        return None if total <= 0 else round(self.computed_s / total, 4)


class EngineUseStore:
    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock
        self._sums: TTLCache[str, EngineUse] = expiring_cache(clock, CACHE_LIFE, size=64)

    async def publish(self, pool: str, worker: str, *, computed_s: float, idle_s: float) -> None:
        use = WorkerUse(worker=worker, at=self._clock.now(), computed_s=round(computed_s, 3), idle_s=round(idle_s, 3))
        place = zlib.crc32(worker.encode()) % PLACES
        await self._objects.put(keys.engine_use(pool, place), use.model_dump_json().encode())

    async def sum(self, pool: str) -> EngineUse:
        """Return the sum of the pool's workers of the last day, at most `CACHE_LIFE` old."""
        cached = self._sums.get(pool)
        if cached is not None:
            return cached
        page = await self._objects.list(keys.engine_uses(pool), limit=PLACES)
        oldest = self._clock.now() - COUNTED_FOR
        found = await map_bounded(page.keys, self._read)
        total = self._sums[pool] = EngineUse.of(use for use in found if use is not None and use.at >= oldest)
        return total

    async def _read(self, key: str) -> WorkerUse | None:
        try:
            return read_as(WorkerUse, key, (await self._objects.get(key)).body)
        except ObjectNotFound:
            return None
        except RecordUnreadable as error:
            logger.warning("a worker's times are not known: %s", error)
            return None

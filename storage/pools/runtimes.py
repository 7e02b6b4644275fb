"""The run times of recent jobs of one workflow shape, for `estimated_time`. The last writer wins.

A run time close to the estimate is not written, so most jobs cost no request.
"""

import json
import statistics
from datetime import timedelta

from cachetools import TTLCache
from pydantic import FiniteFloat, TypeAdapter, ValidationError

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.clock import Clock, expiring_cache
from storage.errors import ObjectNotFound

RECENT = 20
CACHE_LIFE = timedelta(seconds=60)
FORESEEN = 0.2
"""Relative deviation from the estimate up to which a run time is not written, at least `MIN_FORESEEN_S`."""
MIN_FORESEEN_S = 0.5
_RECENT = TypeAdapter(list[FiniteFloat])


class RuntimeStore:
    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._cache: TTLCache[str, list[float]] = expiring_cache(clock, CACHE_LIFE)

    async def record(self, tenant: str, shape: str, seconds: float) -> None:
        """Record one run time."""
        key = keys.runtimes(tenant, shape)
        known = await self._read(key)
        if known and abs(seconds - (median := statistics.median(known))) <= max(FORESEEN * median, MIN_FORESEEN_S):
            return
        recent = [*known, round(seconds, 3)][-RECENT:]
        # Not conditional: a concurrent worker may lose a run time, which hardly changes the median.
        await self._objects.put(key, json.dumps(recent).encode())
        self._cache[key] = recent

    async def estimate(self, tenant: str, shape: str) -> int | None:
        """Return the median in whole seconds, at least 1; None for a shape that never completed."""
        recent = await self._read(keys.runtimes(tenant, shape))
        return max(1, round(statistics.median(recent))) if recent else None

    async def _read(self, key: str) -> list[float]:
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        try:
            recent = _RECENT.validate_json((await self._objects.get(key)).body)
        except (ObjectNotFound, ValidationError):  # the next run time replaces one that is damaged
            recent = []
        self._cache[key] = recent
        return recent

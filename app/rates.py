"""Request rate limit: one token bucket for each key, local to the process."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from storage.clock import Clock

BURST_S = 2
"""The burst that a full bucket allows, in seconds of the rate."""
MOST_KEYS = 10_000
"""Keys with a bucket. The least recently used one is evicted, and restarts with a full bucket."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: datetime


class Rates:
    def __init__(self, per_s: float, clock: Clock) -> None:
        self._per_s = per_s
        self._capacity = max(1.0, per_s * BURST_S)  # a bucket must hold a whole token, however low the rate
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, kid: str) -> int:
        """Take one token. Returns 0, or the whole seconds after which the next token is available."""
        now = self._clock.now()
        bucket = self._buckets.setdefault(kid, _Bucket(self._capacity, now))
        self._buckets.move_to_end(kid)
        if len(self._buckets) > MOST_KEYS:
            self._buckets.popitem(last=False)
        elapsed_s = max(0.0, (now - bucket.filled_at).total_seconds())  # the wall clock may have been set back
        bucket.tokens = min(self._capacity, bucket.tokens + elapsed_s * self._per_s)
        bucket.filled_at = now
        if bucket.tokens < 1:
            return max(1, math.ceil((1 - bucket.tokens) / self._per_s))
        bucket.tokens -= 1
        return 0

"""How often each key may ask this process: a token bucket a key. Nothing is shared between processes."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from storage.clock import Clock

BURST_S = 2
"""So many seconds' worth of requests may come at once."""
MOST_KEYS = 10_000
"""The one that was least lately of use is forgotten, and begins with a full bucket when it comes back."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: datetime


class Rates:
    def __init__(self, per_s: float, clock: Clock) -> None:
        self._per_s = per_s
        self._capacity = max(1.0, per_s * BURST_S)
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, kid: str) -> int:
        """0 if the request may go on; else after how many whole seconds the next one may."""
        now = self._clock.now()
        bucket = self._buckets.setdefault(kid, _Bucket(self._capacity, now))
        self._buckets.move_to_end(kid)
        if len(self._buckets) > MOST_KEYS:
            self._buckets.popitem(last=False)
        elapsed_s = max(0.0, (now - bucket.filled_at).total_seconds())
        bucket.tokens = min(self._capacity, bucket.tokens + elapsed_s * self._per_s)
        bucket.filled_at = now
        if bucket.tokens < 1:
            return max(1, math.ceil((1 - bucket.tokens) / self._per_s))
        bucket.tokens -= 1
        return 0

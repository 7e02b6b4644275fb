"""A bucket in memory that tells what it was asked for and how much was sent to it."""

from collections import Counter
from dataclasses import dataclass

from storage.bucket.memory import MemoryObjectStore
from storage.clock import Clock


@dataclass(frozen=True, slots=True)
class Cost:
    """`requests` by S3's verbs, without those of no count; `written` in bytes of bodies."""

    requests: Counter[str]
    written: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.requests + other.requests, self.written + other.written)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.requests - other.requests, self.written - other.written)


class CountedBucket(MemoryObjectStore):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._written = 0

    def take(self) -> Cost:
        """Since the last time."""
        cost = Cost(+self.requests, self._written)
        self.requests.clear()
        self._written = 0
        return cost

    def _write(self, key: str, body: bytes, content_type: str) -> str:
        self._written += len(body)
        return super()._write(key, body, content_type)

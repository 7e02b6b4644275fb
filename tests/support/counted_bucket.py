"""An in-memory bucket that counts its requests and the bytes written to it."""

from collections import Counter
from dataclasses import dataclass

from storage.bucket.memory import MemoryObjectStore
from storage.clock import Clock


@dataclass(frozen=True, slots=True)
class Cost:
    """The `requests` by S3 verb, and the bytes `written` in bodies."""

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
        """Return the cost since the last call."""
        cost = Cost(+self.requests, self._written)
        self.requests.clear()
        self._written = 0
        return cost

    def _write(self, key: str, body: bytes, content_type: str) -> str:
        self._written += len(body)
        return super()._write(key, body, content_type)

"""A bucket with a faster competitor, for conditional writes that lose their race."""

from storage.bucket.memory import MemoryObjectStore
from storage.clock import Clock
from storage.errors import PreconditionFailed


class OutrunStore(MemoryObjectStore):
    """`lost` maps part of a key to the number of its next conditional writes that fail because the object has
    changed."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.lost: dict[str, int] = {}

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        for part, left in self.lost.items():
            if part in key and left > 0:
                self.lost[part] -= 1
                raise PreconditionFailed(key)
        return await super().replace(key, body, etag=etag, content_type=content_type)

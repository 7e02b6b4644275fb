"""Waiting for an event elsewhere by its id; the event may precede the wait."""

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    def __init__(self) -> None:
        self._futures: dict[str, asyncio.Future[T]] = {}

    def happened(self, of: str, what: T) -> None:
        """Record an event; only its first value counts."""
        future = self._future(of)
        if not future.done():
            future.set_result(what)

    async def of(self, of: str) -> T:
        try:
            return await self._future(of)
        finally:
            del self._futures[of]

    def _future(self, of: str) -> asyncio.Future[T]:
        return self._futures.setdefault(of, asyncio.get_running_loop().create_future())

"""Signals and tickets that start work and may be lost or delayed."""

import asyncio
import itertools
import random

from storage.signal import MemorySignal


class LossySignal(MemorySignal):
    """Some signals are lost."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    def ring(self, topic: str) -> None:
        if self._chance.random() < 0.7:
            super().ring(topic)


class TicketOffice:
    """A `Launcher` like Modal's, on which a ticket waits until a worker takes it."""

    def __init__(self, most_containers: int) -> None:
        self._tickets: list[str] = []
        self._numbers = itertools.count()
        self._most_containers = most_containers
        self._spawned = asyncio.Event()

    async def take(self) -> str:
        """Wait for the oldest ticket, and return it."""
        while not self._tickets:
            self._spawned.clear()
            await self._spawned.wait()
        return self._tickets.pop(0)

    async def spawn(self, pool: str) -> str | None:
        self._tickets.append(f"ticket-{next(self._numbers):06d}")
        self._spawned.set()
        return self._tickets[-1]

    async def waiting(self, pool: str) -> int | None:
        return len(self._tickets)

    async def most_containers(self, pool: str) -> int | None:
        return self._most_containers

    async def cancel(self, ticket: str) -> None:
        if ticket in self._tickets:
            self._tickets.remove(ticket)

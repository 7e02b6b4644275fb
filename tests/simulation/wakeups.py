"""Signals and tickets that start work and may be lost or delayed."""

import asyncio
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

    def __init__(self) -> None:
        self.tickets: asyncio.Queue[str] = asyncio.Queue()

    async def spawn(self, pool: str) -> str | None:
        self.tickets.put_nowait(pool)
        return "ticket"

    async def waiting(self, pool: str) -> int | None:
        return self.tickets.qsize()

    async def cancel(self, ticket: str) -> None:
        """Do nothing, because tickets have no identity here."""

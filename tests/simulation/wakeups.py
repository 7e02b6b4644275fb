"""What starts others, and may be lost or wait: signals and tickets."""

import asyncio
import random

from storage.signal import MemorySignal


class LossySignal(MemorySignal):
    """Some wake-up hints do not arrive."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    def ring(self, topic: str) -> None:
        if self._chance.random() < 0.7:
            super().ring(topic)


class TicketOffice:
    """`Launcher` as Modal has it: a ticket waits until a worker takes it."""

    def __init__(self) -> None:
        self.tickets: asyncio.Queue[str] = asyncio.Queue()

    async def spawn(self, pool: str) -> str | None:
        self.tickets.put_nowait(pool)
        return "ticket"

    async def waiting(self, pool: str) -> int | None:
        return self.tickets.qsize()

    async def cancel(self, ticket: str) -> None:
        """Tickets are not told apart here."""

"""`Launcher`: starts workers. A ticket is a wish for a worker, never the job itself.

A ticket can be lost or duplicated: the worker that it starts claims whatever job is best, perhaps none.
"""

from typing import Protocol


class Launcher(Protocol):
    async def spawn(self, pool: str) -> str | None:
        """Ask for one worker of this pool; returns a ticket id, or None where workers run permanently."""
        ...

    async def cancel(self, ticket: str) -> None:
        """Withdraw a ticket; unknown and finished ones are ignored."""
        ...


class MemoryLauncher:
    """Counts the tickets; for tests, and where workers poll the queue by themselves."""

    def __init__(self) -> None:
        self.spawned: list[str] = []
        self.cancelled: list[str] = []

    async def spawn(self, pool: str) -> str | None:
        self.spawned.append(pool)
        return f"{pool}-{len(self.spawned)}"

    async def cancel(self, ticket: str) -> None:
        self.cancelled.append(ticket)

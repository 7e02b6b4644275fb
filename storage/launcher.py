"""`Launcher`: starts workers. A ticket requests one worker; it does not identify a job.

A ticket can be lost or duplicated: the worker that it starts claims whatever jobs are best, perhaps none.
`storage.tickets` decides how many are spawned and withdrawn.
"""

from typing import Protocol


class Launcher(Protocol):
    async def spawn(self, pool: str) -> str | None:
        """Request one worker of this pool; return a ticket id, or None if workers run permanently."""
        ...

    async def waiting(self, pool: str) -> int | None:
        """Return how many tickets no worker has taken yet; None if workers run permanently."""
        ...

    async def most_containers(self, pool: str) -> int | None:
        """Return how many workers of the pool can run at once; None means no limit."""
        ...

    async def cancel(self, ticket: str) -> None:
        """Withdraw a ticket; unknown and finished ones are ignored."""
        ...


class MemoryLauncher:
    """Keeps the tickets; for tests and simulations."""

    def __init__(self, most_containers: int | None = None) -> None:
        self.tickets: list[str] = []
        self.spawned: list[str] = []
        self._most_containers = most_containers

    async def spawn(self, pool: str) -> str | None:
        self.spawned.append(pool)
        ticket = f"{pool}-{len(self.spawned)}"
        self.tickets.append(ticket)
        return ticket

    async def waiting(self, pool: str) -> int | None:
        return sum(ticket.startswith(f"{pool}-") for ticket in self.tickets)

    async def most_containers(self, pool: str) -> int | None:
        return self._most_containers

    async def cancel(self, ticket: str) -> None:
        if ticket in self.tickets:
            self.tickets.remove(ticket)


class NoLauncher:
    """A launcher for workers that run permanently and poll the queue."""

    async def spawn(self, pool: str) -> str | None:
        return None

    async def waiting(self, pool: str) -> int | None:
        return None

    async def most_containers(self, pool: str) -> int | None:
        return None

    async def cancel(self, ticket: str) -> None:
        """Do nothing, since there are no tickets."""

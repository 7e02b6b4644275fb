"""`Signal`: wake-ups between processes. A wake-up may be lost, so every waiter also polls, slowly.

Topics: `queue_topic(pool)` rings when a job was queued; `job_topic(tenant, job_id)` when one changed; `OUTBOX_TOPIC`
when an event is to be delivered; `live_topic(tenant, job_id)` when a running job has a new preview.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

OUTBOX_TOPIC = "due"


def queue_topic(pool: str) -> str:
    return f"queue/{pool}"


def job_topic(tenant: str, job_id: str) -> str:
    return f"job/{tenant}/{job_id}"


def live_topic(tenant: str, job_id: str) -> str:
    return f"live/{tenant}/{job_id}"


class Bell:
    """Remembers a ring until the next wait, so that a ring between a check and a wait is not lost."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, timeout_s: float) -> bool:
        """Return True if the bell rang within `timeout_s`, or since the last wait."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True


class Signal(Protocol):
    def ring(self, topic: str) -> None:
        """Wake the listeners of `topic`. Never blocks and never raises."""
        ...

    def listen(self, topic: str) -> AbstractContextManager[Bell]:
        """A bell that rings for this topic while the context is open."""
        ...


class MemorySignal:
    """Rings within one event loop; the base of every signal that receives wake-ups from other processes."""

    def __init__(self) -> None:
        self._bells: dict[str, dict[Bell, None]] = {}

    def ring(self, topic: str) -> None:
        for bell in tuple(self._bells.get(topic, ())):
            bell.ring()

    @contextmanager
    def listen(self, topic: str) -> Iterator[Bell]:
        bell = Bell()
        self._bells.setdefault(topic, {})[bell] = None
        try:
            yield bell
        finally:
            del self._bells[topic][bell]
            if not self._bells[topic]:
                del self._bells[topic]

"""One sweep of the deliverer for all calls of a Modal container.

So the bounds of a sweep hold for the container, and a call whose events wait for slow receivers does not occupy one of
the few places for calls.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

from storage.signal import OUTBOX_TOPIC, MemorySignal


class SharedSweep:
    """Runs one sweep at a time for calls from several threads. `sweep` gets a signal that wakes it."""

    def __init__(self, sweep: Callable[[MemorySignal], Awaitable[None]]) -> None:
        self._sweep = sweep
        self._running = threading.Lock()
        self._is_next = threading.Lock()
        self._wake: Callable[[], object] = lambda: None

    def call(self) -> None:
        """Have everything delivered that was due before the call."""
        with suppress(RuntimeError):  # the sweep has ended meanwhile, and its event loop is closed
            self._wake()
        # One call waits for the end of the sweep, which may have listed for the last time before it was woken, and
        # begins the next. Any further call may end: the next sweep lists after it.
        if not self._is_next.acquire(blocking=False):
            return
        with self._running:
            self._is_next.release()
            asyncio.run(self._run())

    async def _run(self) -> None:
        loop, signal = asyncio.get_running_loop(), MemorySignal()
        self._wake = lambda: loop.call_soon_threadsafe(signal.ring, OUTBOX_TOPIC)
        await self._sweep(signal)

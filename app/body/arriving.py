"""Places for larger bodies that arrive. A slow body gives way once another one waits for a place.

A body counts as slow by the time that it spent waiting for its client: what this process takes to work on the bytes
does not count.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from app.body._scanner import SPOOL_THRESHOLD
from app.body.large import WAIT_S, LargeBodies, Leave

SLOW_BYTES, SLOW_S = 512 * 1024, 10.0
"""A body that brings fewer bytes in so many seconds, on average, gives way to one that waits: 0.4 Mbit/s."""
CHECK_S = 1.0
"""Seconds between two checks for a slow body while another one waits."""


class TooSlow(TimeoutError):
    """A body was slow, and another body waited for its place."""


class _Arrival:
    """A body that has a place: how much of it has arrived, and how long it waited for its client."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.received = 0
        self._waited_s = 0.0
        self._since = 0.0
        self._pause: asyncio.Timeout | None = None

    async def next(self, stream: AsyncIterator[bytes]) -> bytes | None:
        """Return the next chunk, or None at the end. Raises `TooSlow` after `give_way`."""
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        try:
            async with asyncio.timeout(None) as self._pause:
                chunk = await anext(stream, None)
        except TimeoutError:
            # The stream may raise one as well, for a pause that is too long.
            if self._pause is None or not self._pause.expired():
                raise
            rate = f"{SLOW_BYTES // 1024} KiB in {SLOW_S:g} s"
            raise TooSlow(f"the body came more slowly than {rate}, and others wait for its place") from None
        finally:
            self._waited_s += loop.time() - self._since
        self.received += len(chunk or b"")
        return chunk

    def rate(self) -> float:
        """Return the bytes per second so far; call it only while `next` waits."""
        return self.received / max(self._waited(), 1e-9)

    def is_slow(self, after_s: float) -> bool:
        """Return whether it has brought less than `SLOW_BYTES` in each `after_s`, on average."""
        return self._waited() >= after_s and self.rate() < SLOW_BYTES / after_s

    def give_way(self) -> None:
        if self._pause is not None and not self._pause.expired():
            self._pause.reschedule(asyncio.get_running_loop().time())

    def _waited(self) -> float:
        return self._waited_s + asyncio.get_running_loop().time() - self._since


class ArrivingBodies:
    """Places for bodies that arrive: `most` in all, half of them for one tenant.

    The holder of a place may wait for a place of another kind, never the other way round.
    """

    def __init__(self, most: int, *, wait_s: float = WAIT_S, slow_s: float = SLOW_S, check_s: float = CHECK_S) -> None:
        self._places = LargeBodies(most, wait_s=wait_s)
        self._slow_s, self._check_s = slow_s, check_s
        self._waiting: set[_Arrival] = set()
        """The bodies with a place that wait for their clients now."""

    async def enter(self, tenant: str) -> Leave:
        """Wait for a place and return the function that leaves it. Raises `Problem` if none becomes free in time."""
        loop = asyncio.get_running_loop()
        timer: asyncio.Handle

        def check() -> None:
            nonlocal timer
            if not self._make_room(tenant):
                timer = loop.call_later(self._check_s, check)

        # Where a place is free, `enter` ends before the loop gets to this.
        timer = loop.call_soon(check)
        try:
            return await self._places.enter(tenant)
        finally:
            timer.cancel()

    async def chunks(
        self,
        tenant: str,
        stream: AsyncIterator[bytes],
        at_end: Callable[[Leave], object],
        *,
        after: int = SPOOL_THRESHOLD,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the chunks of a body, which needs a place once it has more than `after` bytes.

        `at_end` is given the function that leaves the place. Raises `Problem`, `TooSlow` and what `stream` raises.
        """
        arrival, has_place = _Arrival(tenant), False
        while True:
            if has_place:
                self._waiting.add(arrival)
            try:
                chunk = await arrival.next(stream)
            finally:
                self._waiting.discard(arrival)
            if chunk is None:
                return
            if arrival.received > after and not has_place:
                # While this waits, flow control keeps the rest of the body at the client.
                at_end(await self.enter(tenant))
                has_place = True
            yield chunk

    def _make_room(self, tenant: str) -> bool:
        """Let the slowest of the slow bodies give way, and return whether there was one."""
        # The place of another tenant would not help a tenant that has its half.
        of_all = not self._places.has_half(tenant)
        slow = [one for one in self._waiting if (of_all or one.tenant == tenant) and one.is_slow(self._slow_s)]
        if not slow:
            return False
        slowest = min(slow, key=_Arrival.rate)
        self._waiting.discard(slowest)  # so that it gives way to one body
        slowest.give_way()
        return True


class NewestBodies:
    """Small bodies that arrive, of all clients: beyond `most` of them the oldest gives way to the newest.

    A body that is sent at once has arrived before so many others can come, so slow ones do not keep it out.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[asyncio.Timeout, None] = {}

    @contextmanager
    def counted(self, limit: asyncio.Timeout) -> Iterator[None]:
        """Count a body while the context is open. `limit` is open too, and ends now when the body gives way."""
        if len(self._open) >= self._most:
            oldest = next(iter(self._open))
            del self._open[oldest]
            if not oldest.expired():
                oldest.reschedule(asyncio.get_running_loop().time())
        self._open[limit] = None
        try:
            yield
        finally:
            self._open.pop(limit, None)

"""Bounds how many documents a process receives and holds in memory at once.

A document is large if it takes more than `LIGHT` bytes of memory once it is parsed. Files in it do not count, because
they are on disk. One tenant gets at most half of the places.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.problems import Problem

WAIT_S = 30
"""Seconds that a large document waits for a place."""

Leave = Callable[[], None]


class LargeBodies:
    """Places for large documents: `most` in all, half of them for one tenant.

    With `one_of_each` every tenant's first place is one besides: else two tenants whose requests last, since they wait
    for a slow server of a URL, would keep all others out. There are few tenants.
    """

    def __init__(self, most: int, *, wait_s: float = WAIT_S, one_of_each: bool = False) -> None:
        self._half = max(1, most // 2)
        self._all = asyncio.Semaphore(most)
        self._of_tenant: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(self._half))
        self._held: Counter[str] = Counter()
        self._wait_s = wait_s
        self._one_of_each = one_of_each
        self._first: set[str] = set()
        """Tenants whose first place is taken."""

    async def enter(self, tenant: str) -> Leave:
        """Wait for a place and return the function that leaves it. Raises `Problem` if none becomes free in time."""
        own = self._of_tenant[tenant]
        try:
            async with asyncio.timeout(self._wait_s):
                # The tenant's own place comes first: requests beyond its half must not hold places that others need.
                await own.acquire()
                is_first = self._one_of_each and tenant not in self._first
                if is_first:
                    self._first.add(tenant)
                else:
                    try:
                        await self._all.acquire()
                    except BaseException:
                        own.release()
                        raise
        except TimeoutError:
            detail = "this process works on as many large requests as it may hold in memory"
            raise Problem("too-many-large-requests", detail, headers={"Retry-After": str(WAIT_S)}) from None

        self._held[tenant] += 1

        def leave() -> None:
            self._held[tenant] -= 1
            if is_first:
                self._first.remove(tenant)
            else:
                self._all.release()
            own.release()

        return leave

    def has_half(self, tenant: str) -> bool:
        """Return whether the tenant has all the places that one tenant may have."""
        return self._held[tenant] >= self._half


class TenantCount:
    """Counts a tenant's concurrent requests of one kind in this process. `detail` describes the kind in a refusal."""

    def __init__(self, most: int, detail: str) -> None:
        self._most = most
        self._detail = detail
        self._of_tenant: Counter[str] = Counter()

    @contextmanager
    def paused(self, tenant: str) -> Iterator[None]:
        """Do not count one of the tenant's counted requests while the context is open."""
        self._of_tenant[tenant] -= 1
        try:
            yield
        finally:
            self._of_tenant[tenant] += 1  # beyond the limit as well: the request has been accepted

    @contextmanager
    def counted(self, tenant: str) -> Iterator[None]:
        """Count one request while the context is open. Raises `Problem` beyond the limit."""
        if self._of_tenant[tenant] >= self._most:
            detail = f"{self._most} of your requests {self._detail}"
            # Without `connection: close`: the body may be unread, and a server that closed at once would reset the
            # connection before the client reads the answer.
            raise Problem("too-many-requests", detail, headers={"Retry-After": "1"})
        self._of_tenant[tenant] += 1
        try:
            yield
        finally:
            self._of_tenant[tenant] -= 1
            if not self._of_tenant[tenant]:
                del self._of_tenant[tenant]

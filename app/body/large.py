"""How many documents this process receives and has in memory at once, so that it neither fills nor holds up others.

A document is large with more than `LIGHT` bytes of structure and text; files in it do not count, for they lie on disk.
One tenant has half of the places at most.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.problems import Problem

WAIT_S = 30
"""How long a large document waits for a place."""

Leave = Callable[[], None]


class LargeBodies:
    def __init__(self, most: int, *, wait_s: float = WAIT_S) -> None:
        self._all = asyncio.Semaphore(most)
        self._of_tenant: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(max(1, most // 2)))
        self._wait_s = wait_s

    async def enter(self, tenant: str) -> Leave:
        """A place, to be left by calling what is returned. `Problem` where none gets free in time."""
        own = self._of_tenant[tenant]
        try:
            async with asyncio.timeout(self._wait_s):
                await own.acquire()
                try:
                    await self._all.acquire()
                except BaseException:
                    own.release()
                    raise
        except TimeoutError:
            detail = "this process works on as many large requests as it may hold in memory"
            raise Problem("too-many-large-requests", detail, headers={"Retry-After": str(WAIT_S)}) from None

        def leave() -> None:
            self._all.release()
            own.release()

        return leave


class TenantCount:
    """Counts what a tenant has under way at this process; `detail` says what it has too many of."""

    def __init__(self, most: int, detail: str) -> None:
        self._most = most
        self._detail = detail
        self._of_tenant: Counter[str] = Counter()

    @contextmanager
    def counted(self, tenant: str) -> Iterator[None]:
        """For as long as this is entered. `Problem` where the tenant has as many as it may."""
        if self._of_tenant[tenant] >= self._most:
            detail = f"{self._most} of your requests {self._detail}"
            raise Problem("too-many-requests", detail, headers={"Retry-After": "1", "connection": "close"})
        self._of_tenant[tenant] += 1
        try:
            yield
        finally:
            self._of_tenant[tenant] -= 1
            if not self._of_tenant[tenant]:
                del self._of_tenant[tenant]

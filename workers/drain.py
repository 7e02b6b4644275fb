"""The run of one ticket: its container drains the pool's queue.

    a ticket is taken ──▶ run jobs until the queue is empty ──▶ withdraw the tickets that wait for no job
                      └─▶ its time is over, or it was withdrawn itself ──▶ a ticket for the jobs that are left

A ticket that ended after every job would leave the GPU idle until the next one is fetched. Its time is limited, because
a container of an earlier deployment lives as long as its ticket, and because Modal limits the time of a call.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from storage.tickets import Tickets
from workers.loop import WorkerLoop

logger = logging.getLogger(__name__)


async def _nothing() -> None:
    pass


class Drain:
    """After `limit_s` seconds the ticket begins no further job. `before_claim` is awaited before each claim."""

    def __init__(
        self,
        worker: WorkerLoop,
        tickets: Tickets,
        pool: str,
        *,
        limit_s: float,
        before_claim: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        self._worker = worker
        self._tickets = tickets
        self._pool = pool
        self._limit_s = limit_s
        self._before_claim = before_claim
        self._since: float | None = None
        self._is_withdrawn = False
        self._is_cut_short = False
        self._trimming: asyncio.Task[None] | None = None

    def end_soon(self) -> None:
        """Begin no further job. May be called from any thread."""
        self._is_withdrawn = True

    async def run(self, ticket: str | None = None) -> int:
        """Run queued jobs and return their number. `ticket` is the id under which the ticket can be withdrawn."""
        try:
            served = await self._worker.serve_queue(self._goes_on, looks_ahead=self._limit_s > 0)
        except BaseException:
            if self._trimming is not None:
                self._trimming.cancel()
            raise
        if self._trimming is not None:
            await self._trimming  # one that ended half-way might have withdrawn the ticket of a new job
        if self._is_cut_short:
            await self._replace()
        else:
            await self._tickets.try_to_trim(self._pool)
        if ticket is not None:
            await self._tickets.ended(self._pool, ticket)
        return served

    async def _goes_on(self) -> bool:
        """Prepare a claim. Return False if the ticket begins no further job."""
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now
        elif self._is_withdrawn or now >= self._since + self._limit_s:
            self._is_cut_short = True
            return False
        else:
            self._trim_meanwhile()
        await self._before_claim()
        return True

    def _trim_meanwhile(self) -> None:
        """Withdraw the tickets of the jobs that this container has taken, while it runs the next one."""
        if self._trimming is None or self._trimming.done():
            self._trimming = asyncio.create_task(self._tickets.try_to_trim(self._pool))

    async def _replace(self) -> None:
        try:
            await self._tickets.refill(self._pool)
        except Exception as error:  # the launcher's client raises many types
            logger.warning("no ticket for the jobs that are left, the reaper requests one: %s", error)

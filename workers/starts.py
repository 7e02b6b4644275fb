"""Counts the starts of the engine for all workers of its pool.

A container that dies during the start counts as a failure, however it ends. `storage.pools.engine_starts` defines the
consequences.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from storage.errors import StorageError
from storage.pools.engine_starts import EngineStartStore, StartState
from workers.errors import EngineUnavailable, WorkerDiskFull

logger = logging.getLogger(__name__)

SIGNS_OF_LIFE = 3
"""Renewals per lease of a start."""
LAST_WRITE_S = 3.0
TAIL_LINES = 20
LONGEST_LINE = 300


class CountedStarts:
    """`hide` removes what clients must not read from the engine's output.

    If the bucket fails, the engine starts all the same and the start is not counted.
    """

    def __init__(self, starts: EngineStartStore, pool: str, worker: str, hide: Callable[[str], str]) -> None:
        self._starts = starts
        self._pool = pool
        self._worker = worker
        self._hide = hide

    async def check(self) -> None:
        """Raise `EngineUnavailable` while no start may be tried."""
        try:
            state: StartState = await self._starts.state(self._pool)
        except StorageError as error:
            logger.warning("earlier starts of the engine are not known: %s", error)
            return
        if state.paused_until is not None:
            raise EngineUnavailable(f"no start is tried before {state.paused_until:%H:%M:%S} UTC: {state.message}")

    async def run(self, start: Callable[[], Awaitable[None]]) -> None:
        """Run and count a start. Any error is raised as `EngineUnavailable`, or unchanged if it is a subclass.

        A `WorkerDiskFull` is not counted, and raised unchanged.
        """
        try:
            async with self._alive():
                await start()
        except asyncio.CancelledError:  # the container is preempted, which is no fault of the engine
            await self._record(self._starts.withdraw(self._pool, self._worker))
            raise
        except WorkerDiskFull:  # no fault of the engine either: its jobs must wait, and not fail
            await self._record(self._starts.withdraw(self._pool, self._worker))
            raise
        except Exception as error:
            logger.exception("the engine could not be started")
            problem = await self._failed(error)
        else:
            await self._record(self._starts.succeed(self._pool, self._worker))
            return
        raise problem  # outside the handler, without a cause: Modal logs both, and its log hides nothing

    async def _failed(self, error: Exception) -> EngineUnavailable:
        words = str(error) if isinstance(error, EngineUnavailable) else f"{type(error).__name__}: {error}"
        problem = self._hide(words)
        message, *tail = [line[:LONGEST_LINE] for line in problem.splitlines()] or ["no reason is known"]
        await self._record(self._starts.fail(self._pool, self._worker, message, tuple(tail[-TAIL_LINES:])))
        return (type(error) if isinstance(error, EngineUnavailable) else EngineUnavailable)(problem)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Watch a step before the start, which counts as a failure only if the container dies in it."""
        async with self._alive():
            yield
        await self._record(self._starts.withdraw(self._pool, self._worker))

    @asynccontextmanager
    async def _alive(self) -> AsyncIterator[None]:
        """Renew the lease of the start until its end."""
        await self._record(self._starts.begin(self._pool, self._worker))
        living = asyncio.create_task(self._live())
        try:
            yield
        finally:
            living.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await living

    async def _live(self) -> None:
        interval_s = self._starts.policy.lease.total_seconds() / SIGNS_OF_LIFE
        while True:
            await asyncio.sleep(interval_s)
            await self._record(self._starts.renew(self._pool, self._worker))

    async def _record(self, write: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(LAST_WRITE_S):
                await write
        except (StorageError, TimeoutError) as error:
            logger.warning("a start of the engine was not counted: %r", error)

"""The jobs of a worker that need its engine no longer: their uploads and commits, while it runs others."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from storage.errors import StorageError

logger = logging.getLogger(__name__)

STOP_S = 2.0
"""Seconds that conclusions may still take when the worker stops. Then each releases its job, unless it is committing.
`comfyui-modal up` waits for 5 s in all."""


class Conclusions:
    """Runs conclusions side by side. At most `limit` may be left when another job begins."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, conclusion: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(_logged(conclusion))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def make_room(self) -> None:
        """Wait until another job may begin."""
        while len(self._tasks) > self._limit:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def wait(self, timeout_s: float) -> bool:
        """Wait until one ends, at most so long; return False at once if none is left."""
        if not self._tasks:
            return False
        await asyncio.wait(self._tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return True

    async def all(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Let the conclusions end within `STOP_S`, and cancel them then."""
        if not self._tasks:
            return
        tasks = set(self._tasks)
        await asyncio.wait(tasks, timeout=STOP_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _logged(conclusion: Coroutine[Any, Any, object]) -> None:
    """Await a conclusion, whose failure must not touch the job that runs now."""
    try:
        await conclusion
    except StorageError as error:
        logger.warning("a job could not be concluded, its lease will end: %s", error)
    except Exception:
        logger.exception("a job could not be concluded, its lease will end")

"""Concurrent awaits that raise one plain error instead of an exception group."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
T = TypeVar("T")
U = TypeVar("U")

AT_ONCE = 16
"""The size of the bucket's connection pool; more calls would only wait."""


async def gather(*awaitables: Awaitable[T]) -> list[T]:
    """Return all results in order. Waits for every one, then raises the first failure."""
    # Otherwise the first failure would be raised while the others still run.
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def both(one: Awaitable[T], other: Awaitable[U]) -> tuple[T, U]:
    """Do as `gather` for results of two types."""
    first, second = await asyncio.gather(one, other, return_exceptions=True)
    if isinstance(first, BaseException):
        raise first
    if isinstance(second, BaseException):
        raise second
    return first, second


async def map_bounded(
    items: Iterable[Item], call: Callable[[Item], Awaitable[T]], *, at_once: int = AT_ONCE
) -> list[T]:
    """Gather `call(item)` for each item, with at most `at_once` in flight. After a failure no further call begins."""
    numbered = list(enumerate(items))
    left = iter(numbered)
    results: dict[int, T] = {}
    failures: list[BaseException] = []

    async def work() -> None:
        for number, item in left:
            if failures:
                return
            try:
                results[number] = await call(item)
            except BaseException as failure:
                failures.append(failure)
                raise

    # One task per slot, not per item, so that waiting items cost the event loop nothing.
    await gather(*(work() for _ in range(min(at_once, len(numbered)))))
    return [results[number] for number, _ in numbered]


def retrieve(shared: asyncio.Task[Any]) -> None:
    """Take note of a failure, as the callback of a task that all of its waiters may leave: asyncio would log it."""
    if not shared.cancelled():
        shared.exception()


@asynccontextmanager
async def in_background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run the coroutines until the block ends, and cancel them then. The failure of one is logged."""
    # Not a task group: it would wrap an error of the block in an exception group, and end the block with a failed task.
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                logger.error("a background task failed", exc_info=ended)

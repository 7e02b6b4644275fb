"""Concurrent awaits that raise one plain error instead of an exception group."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
T = TypeVar("T")
U = TypeVar("U")

AT_ONCE = 16
"""The size of the bucket's connection pool; more calls would only wait."""


async def gather(*awaitables: Awaitable[T]) -> list[T]:
    """Return all results in order. Waits for every one, then raises the first failure, so nothing is left running."""
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
    semaphore = asyncio.Semaphore(at_once)
    failures: list[BaseException] = []

    async def bounded(item: Item) -> T:
        async with semaphore:
            if failures:
                raise failures[0]
            try:
                return await call(item)
            except BaseException as failure:
                failures.append(failure)
                raise

    return await gather(*(bounded(item) for item in items))

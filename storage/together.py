"""Awaiting several things at once with one plain error, not a group of them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
T = TypeVar("T")

AT_ONCE = 16
"""More would only wait: the bucket's connection pool is not larger."""


async def together(*awaitables: Awaitable[T]) -> list[T]:
    """All results in order. Waits for every one, then raises the first failure: nothing is left running."""
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def for_each(items: Iterable[Item], call: Callable[[Item], Awaitable[T]], *, at_once: int = AT_ONCE) -> list[T]:
    """As `together`, with at most so many under way; after a failure no further one begins."""
    todo, results = list(items), list[T]()
    for start in range(0, len(todo), at_once):
        results += await together(*(call(item) for item in todo[start : start + at_once]))
    return results

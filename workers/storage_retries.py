"""Retries while the bucket is unavailable: what a GPU has computed is not lost for that."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import stamina

from storage.errors import StorageUnavailable

RETRY_FOR_S = 120.0
"""How long a finished job, or an output of it, is tried to be written."""

T = TypeVar("T")


async def retry_while_unavailable(call: Callable[[], Awaitable[T]]) -> T:
    """Repeats `call`, ever more slowly, while the bucket does not answer; then its last `StorageUnavailable`."""
    async for attempt in stamina.retry_context(on=StorageUnavailable, attempts=None, timeout=RETRY_FOR_S):
        with attempt:
            return await call()
    raise AssertionError("retry_context returns or raises")  # pragma: no cover

"""Retries while the bucket is unavailable, so that results of a GPU are not lost."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import stamina

from storage.errors import StorageUnavailable

RETRY_FOR_S = 120.0
"""Seconds for which the write of a finished job or an output is retried."""

T = TypeVar("T")


async def retry_while_unavailable(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat `call` with backoff while the bucket is unavailable; raise the last `StorageUnavailable` in the end."""
    async for attempt in stamina.retry_context(on=StorageUnavailable, attempts=None, timeout=RETRY_FOR_S):
        with attempt:
            return await call()
    raise AssertionError("retry_context returns or raises")  # pragma: no cover

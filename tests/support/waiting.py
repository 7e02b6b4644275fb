"""Waiting for an event elsewhere instead of for a fixed time, which is too long or too short."""

import asyncio
from collections.abc import Callable


async def until(holds: Callable[[], object], seconds: float = 20) -> None:
    """Poll until the condition holds; raise `TimeoutError` if it never does."""
    async with asyncio.timeout(seconds):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)

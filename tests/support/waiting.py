"""Waiting for what happens elsewhere, instead of for a fixed time: that is too long here and too short there."""

import asyncio
from collections.abc import Callable


async def until(holds: Callable[[], object], seconds: float = 20) -> None:
    """Looks again and again; `TimeoutError` if it never holds."""
    async with asyncio.timeout(seconds):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)

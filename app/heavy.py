"""Runs CPU-bound work off the event loop, in one thread that tenants share in turn.

There is one thread because the work is Python code that holds the GIL: a second thread would slow both down, and the
event loop would compete with two threads for the GIL.
"""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from storage.bucket.budget import current_owner
from storage.fair_slots import FairSlots

T = TypeVar("T")

SWITCH_S = 0.001
"""The GIL switch interval: how long the thread keeps the GIL while the event loop waits. Python's default is 5 ms."""

_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heavy")
_TURNS = FairSlots(1)


def yield_soon() -> None:
    """Lower the GIL switch interval. A process that serves requests calls this once at its start."""
    sys.setswitchinterval(SWITCH_S)


async def off_loop(work: Callable[..., T], *args: Any) -> T:
    """Run `work` in the thread. It must be bounded and do no I/O that can hang."""
    # Fair slots in front of the executor's FIFO: a tenant with many jobs waits behind one job of each other tenant.
    async with _TURNS.slot(current_owner()):
        return await asyncio.get_running_loop().run_in_executor(_THREAD, work, *args)

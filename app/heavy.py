"""Runs CPU-bound work off the event loop, in two threads of which one tenant has one.

The work is Python code that holds the GIL, so further threads do not make it faster. The second one is there for the
work of others while a tenant's takes long; the event loop competes with both for the GIL.
"""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from storage.bucket.budget import current_owner
from storage.fair_slots import FairSlots

T = TypeVar("T")

SWITCH_S = 0.001
"""The GIL switch interval: how long a thread keeps the GIL while the event loop waits. Python's default is 5 ms."""

THREADS = 2

_EXECUTOR = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="heavy")
_SLOTS: WeakKeyDictionary[asyncio.AbstractEventLoop, FairSlots] = WeakKeyDictionary()
"""For each event loop of the process: a loop that ends before its threads do releases no slot."""


def yield_soon() -> None:
    """Lower the GIL switch interval. A process that serves requests calls this once at its start."""
    sys.setswitchinterval(SWITCH_S)


async def off_loop(work: Callable[..., T], *args: Any) -> T:
    """Run `work` in a thread. It must be bounded and do no I/O that can hang."""
    loop = asyncio.get_running_loop()
    slots = _SLOTS.setdefault(loop, FairSlots(THREADS, each=THREADS - 1))
    leave = await slots.enter(current_owner())
    running = loop.run_in_executor(_EXECUTOR, work, *args)
    # Not at the end of this call, which a client can cancel: the thread goes on, and its slot with it.
    running.add_done_callback(lambda _: leave())
    return await asyncio.shield(running)

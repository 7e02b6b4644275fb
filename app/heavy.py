"""Work that would hold the event loop for longer than others should wait, in a thread that tenants take in turn.

One thread: such work is Python code that holds the interpreter's lock, so a second thread would only make both slower,
and the event loop would have to wait for each of them in turn.
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
"""How long such a thread may keep the interpreter's lock while the event loop waits for it; the default is 5 ms."""

_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heavy")
_TURNS = FairSlots(1)


def yield_soon() -> None:
    """For the start of a process that serves requests: its threads give way to the event loop more often."""
    sys.setswitchinterval(SWITCH_S)


async def off_loop(work: Callable[..., T], *args: Any) -> T:
    """What `work` returns or raises. It must be bounded and do no I/O that can hang."""
    async with _TURNS.slot(current_owner()):
        return await asyncio.get_running_loop().run_in_executor(_THREAD, work, *args)

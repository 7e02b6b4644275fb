"""Work that would hold the event loop for longer than other requests should wait, in a thread of its own.

One thread: such work is Python code that holds the interpreter's lock, so a second thread would only make both slower,
and the event loop would have to wait for each of them in turn.
"""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

SWITCH_S = 0.001
"""How long such a thread may keep the interpreter's lock while the event loop waits for it; the default is 5 ms."""

_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heavy")


def yield_soon() -> None:
    """For the start of a process that serves requests: its threads give way to the event loop more often."""
    sys.setswitchinterval(SWITCH_S)


async def off_loop(work: Callable[..., T], *args: Any) -> T:
    """What `work` returns or raises. It must be bounded and do no I/O that can hang."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, work, *args)

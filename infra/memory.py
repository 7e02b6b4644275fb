"""Memory that a large request took goes back to the system: glibc's malloc would keep most of it for the next one.

Without this, each of a process's threads gets an arena of its own, whose free memory no other thread uses, and the size
from which a block is mapped alone, and unmapped when it is freed, grows with the largest block seen, up to 32 MiB.
"""

import asyncio
import ctypes
import gc
import sys
from collections.abc import Callable

ARENAS = 2
MAPPED_FROM = 256 * 1024
"""Blocks of so many bytes are mapped alone. Setting it also stops it from growing."""
TRIM_EVERY_S = 10.0

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def bound_malloc() -> None:
    """To be called before there are threads. Nothing where the C library is not glibc."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, ARENAS)
        libc.mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM)
        libc.mallopt(_M_TRIM_THRESHOLD, MAPPED_FROM)


async def keep_trimmed() -> None:
    """Gives free pages inside the arenas back, until it is cancelled. In a thread: it may take milliseconds."""
    libc = _glibc()
    if libc is None:
        return
    trim: Callable[[int], int] = libc.malloc_trim
    while True:
        await asyncio.sleep(TRIM_EVERY_S)
        await asyncio.to_thread(trim, 0)


def freeze_heap() -> None:
    """Excludes what the process has loaded from every later garbage collection. Call it once, when all is set up.

    A full collection holds the interpreter's lock for 30 ms over our modules alone, and parsing a large document
    causes several, so that other requests would wait for it.
    """
    gc.collect()
    gc.freeze()


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None

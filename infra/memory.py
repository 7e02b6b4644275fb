"""Settings of glibc's malloc and of the garbage collector that return the memory of large requests to the system.

By default each thread has an arena, whose free memory no other thread uses. The size above which a block is mapped
separately, and unmapped when it is freed, grows with the largest block seen, up to 32 MiB.
"""

import asyncio
import ctypes
import gc
import sys
from collections.abc import Callable

ARENAS = 2
MAPPED_FROM = 256 * 1024
"""Blocks of this size are mapped separately. An explicit value also stops the threshold from growing."""
TRIM_EVERY_S = 10.0
YOUNG_OBJECTS = 700
"""New objects after which the garbage collector examines them: Python's own default."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def bound_malloc() -> None:
    """Bound the arenas and thresholds of malloc. Call it before any thread starts. Without glibc it does nothing."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, ARENAS)
        libc.mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM)
        libc.mallopt(_M_TRIM_THRESHOLD, MAPPED_FROM)


async def keep_trimmed() -> None:
    """Return free pages inside the arenas to the system periodically, until cancelled."""
    libc = _glibc()
    if libc is None:
        return
    trim: Callable[[int], int] = libc.malloc_trim
    while True:
        await asyncio.sleep(TRIM_EVERY_S)
        await asyncio.to_thread(trim, 0)


def freeze_heap() -> None:
    """Exclude all loaded objects from later garbage collections, and collect often. Call it once, after the start."""
    # A full collection over the modules alone holds the interpreter's lock for 30 ms, and parsing a large document
    # causes several, for which other requests would wait.
    gc.collect()
    gc.freeze()
    # `comfyui_modal.run` lets a start collect less often, but what requests leave must not stay long.
    gc.set_threshold(YOUNG_OBJECTS)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None

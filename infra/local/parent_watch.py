"""Events that end a local process: SIGTERM, Ctrl-C and, for a child, the death of its parent."""

import asyncio
import signal
import sys


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set. Call it inside the running loop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def stop_with_parent() -> asyncio.Event:
    """Return an event that SIGTERM, SIGINT and the death of the parent set."""
    stop = stop_on_signals()
    await _watch_input(stop)
    return stop


async def parent_gone() -> asyncio.Event:
    """Return an event that end-of-file on standard input sets: the pipe of `infra.local.children`."""
    gone = asyncio.Event()
    await _watch_input(gone)
    return gone


async def _watch_input(event: asyncio.Event) -> None:
    await asyncio.get_running_loop().connect_read_pipe(lambda: _EndOfInput(event), sys.stdin)


class _EndOfInput(asyncio.Protocol):
    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop.set()

"""When a local process should end: on SIGTERM, on Ctrl-C and, for a child, when its parent is gone."""

import asyncio
import signal
import sys


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set. Call it inside the running loop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def stop_with_parent() -> asyncio.Event:
    """As `stop_on_signals`, and also set when the parent is gone."""
    stop = stop_on_signals()
    await _watch_input(stop)
    return stop


async def parent_gone() -> asyncio.Event:
    """An event that the end of standard input sets: the pipe of `infra.local.children`."""
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

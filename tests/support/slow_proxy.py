"""A TCP proxy that makes a server as far away as S3: `python -m tests.support.slow_proxy HOST PORT SECONDS BYTES`.

Each HTTP request takes SECONDS from its last byte to its answer, the server's own time included, and all bytes of one
direction together pass at BYTES a second. It prints its port, and runs in a
process of its own so that it takes no time from the event loop that is measured.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

CONTINUE = b"HTTP/1.1 100"
"""The head of an interim answer, for which a client waits before it sends a body."""
PIECE = 256 * 1024
SMALL = 16 * 1024
"""Pieces up to this size do not wait behind the bytes of other connections, as on a network that is shared fairly."""
SHORTEST_SLEEP_S = 0.002
"""Shorter waits are left to add up, because a sleep takes about a millisecond longer than asked."""


class Pace:
    """Lets a number of bytes pass in each second, over all connections of one direction."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    async def passed(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + size / self._bytes_per_s
        if size > SMALL and self._free_at - now > SHORTEST_SLEEP_S:
            await asyncio.sleep(self._free_at - now)


@dataclass
class Sent:
    """When the last byte of a request was sent, until its answer begins."""

    at: float | None = None


async def pump_requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pace: Pace, sent: Sent) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(PIECE):
            await pace.passed(len(data))
            writer.write(data)
            await writer.drain()
            sent.at = asyncio.get_running_loop().time()
    _close(writer)


async def pump_answers(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pace: Pace, sent: Sent, request_s: float
) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(PIECE):
            if sent.at is not None and not data.startswith(CONTINUE):
                await asyncio.sleep(max(0.0, sent.at + request_s - asyncio.get_running_loop().time()))
                sent.at = None
            await pace.passed(len(data))
            writer.write(data)
            await writer.drain()
    _close(writer)


def _close(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


async def serve(host: str, port: int, request_s: float, bytes_per_s: float) -> None:
    up, down = Pace(bytes_per_s), Pace(bytes_per_s)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, port, limit=PIECE)
        sent = Sent()
        await asyncio.gather(
            pump_requests(reader, there_writer, up, sent), pump_answers(there_reader, writer, down, sent, request_s)
        )

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=PIECE)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)  # ends with the process that started this one
    os._exit(0)  # without a report of each connection that is still open


@asynccontextmanager
async def slow_proxy(url: str, *, request_s: float, bytes_per_s: float) -> AsyncIterator[str]:
    """Yield the URL of a proxy in front of this server."""
    at = urlsplit(url)
    arguments = [str(at.hostname), str(at.port), str(request_s), str(bytes_per_s)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.slow_proxy", *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.stdin.close()
        await process.wait()


if __name__ == "__main__":
    host, port, request_s, bytes_per_s = sys.argv[1:]
    asyncio.run(serve(host, int(port), float(request_s), float(bytes_per_s)))

"""An engine that sends pings on its WebSocket and never reads the answers."""

import asyncio
import base64
import hashlib
import socket

import pytest

from workers.comfy.http_engine import HttpEngine

pytestmark = pytest.mark.anyio

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PING = b"\x89\x7d" + b"x" * 125
PINGS = 400_000
"""Their pongs are 52 MB, more than the kernel buffers."""


class Pinging:
    """A server that upgrades a connection and reads nothing more of it."""

    def __init__(self) -> None:
        self.is_lost = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        (key,) = (line.split(b": ")[1] for line in head.splitlines() if line.lower().startswith(b"sec-websocket-key"))
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())  # noqa: S324  of the protocol
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n")
        writer.write(b"sec-websocket-accept: " + accept + b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        try:
            for _ in range(PINGS // 100):
                writer.write(PING * 100)
                await writer.drain()
        except ConnectionError:
            self.is_lost.set()
        finally:
            writer.close()


async def test_pongs_that_are_not_read_end_the_socket() -> None:
    """The socket ends once some pongs wait to be read, and closing it waits for nobody."""
    pinging = Pinging()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server = await asyncio.start_server(pinging, sock=listener)
        engine = HttpEngine(f"http://127.0.0.1:{listener.getsockname()[1]}")
        async with asyncio.timeout(20):
            async with engine.connect("client") as messages:
                assert [message async for message in messages] == []
            await pinging.is_lost.wait()
        server.close()

"""A TCP proxy whose connections a test can break. The server behind it may listen on a UNIX socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from workers.comfy.http import socket_of


class CutProxy:
    """A proxy made by `cutting`; `url` leads to the server behind it."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = "http://{}:{}".format(*self._server.sockets[0].getsockname())

    def cut(self) -> None:
        """Break every open connection; new connections are accepted."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def stop(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await self._connect()
        self._writers |= {writer, there_writer}
        await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if (path := socket_of(self._target)) is not None:
            return await asyncio.open_unix_connection(path)
        parts = urlsplit(self._target)
        return await asyncio.open_connection(parts.hostname, parts.port)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def cutting(target: str) -> AsyncIterator[CutProxy]:
    proxy = CutProxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()

"""Reads server-sent events as a client does."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Received:
    name: str
    data: dict[str, Any]
    id: str | None


class Listener:
    """One open stream. `comments` counts the lines that keep it alive."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments = 0
        self._events = self._read()

    async def _read(self) -> AsyncIterator[Received]:
        fields: dict[str, str] = {}
        async for line in self.response.aiter_lines():
            name, _, text = line.partition(":")
            if line.startswith(":"):
                self.comments += 1
            elif line:
                fields[name] = text.removeprefix(" ")
            elif fields:
                yield Received(fields["event"], json.loads(fields["data"]), fields.get("id"))
                fields = {}

    async def next(self, timeout_s: float = 20) -> Received:
        """Return the next event. Raises StopAsyncIteration at the end of the stream."""
        return await asyncio.wait_for(anext(self._events), timeout_s)

    async def until(self, name: str, timeout_s: float = 20, **data: Any) -> list[Received]:
        """Return the events up to the first with this name and data."""
        found: list[Received] = []
        while not found or found[-1].name != name or not data.items() <= found[-1].data.items():
            found.append(await self.next(timeout_s))
        return found

    async def rest(self) -> list[Received]:
        """Return the remaining events until the server ends the stream."""
        return [event async for event in self._events]


@asynccontextmanager
async def listening(client: httpx.AsyncClient, url: str, **headers: str) -> AsyncIterator[Listener]:
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    async with client.stream("GET", url, headers=sent, timeout=30) as response:
        yield Listener(response)

"""The HTTP client that is used for every measured system."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

PNG = b"\x89PNG"
IDLE_S = 2.0
"""Idle connections are closed by the client, before a server closes one just as the next job is posted on it."""


@asynccontextmanager
async def http_client(headers: Mapping[str, str] | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    """Return a client that keeps open as many connections as there are concurrent clients."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        yield session


async def post_json(session: aiohttp.ClientSession, url: str, body: Any) -> Any:
    """Post JSON and return the answer, which must be a 2xx."""
    async with session.post(url, json=body) as answer:
        assert answer.status < 300, (answer.status, await answer.text())
        return await answer.json()


async def get_json(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as answer:
        assert answer.status == 200, (answer.status, await answer.text())
        return await answer.json()


async def get_picture(session: aiohttp.ClientSession, url: str, *, headers: Mapping[str, str] | None = None) -> None:
    """Download a picture completely and check that it is one."""
    async with session.get(url, headers=headers) as answer:
        assert answer.status == 200, (answer.status, await answer.text())
        assert (await answer.read()).startswith(PNG)

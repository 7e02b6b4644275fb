"""Both Python clients behind one interface, so that they pass the same tests."""

from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

import anyio.to_thread

from comfyui_modal_client import AsyncClient, Client, JobEvent
from tests.support.plain_http import NO_TLS


class Threaded:
    """The blocking client with the methods of the other one: each runs in a thread."""

    def __init__(self, url: str, key: str, **options: Any) -> None:
        self._client = Client(url, key, tls=NO_TLS, **options)

    async def __aenter__(self) -> Self:
        self._client.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.__exit__(kind, error, trace)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._client, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            return await anyio.to_thread.run_sync(partial(method, *arguments, **options))

        return call


class OpenClient(Protocol):
    """Opens one of the clients. The type is that of the client for asyncio, which both resemble here."""

    def __call__(self, url: str, key: str = ..., **options: Any) -> AsyncClient: ...


def blocking(url: str, key: str = "key", **options: Any) -> Any:
    return Threaded(url, key, **options)


def for_asyncio(url: str, key: str = "key", **options: Any) -> AsyncClient:
    return AsyncClient(url, key, tls=NO_TLS, **options)


async def followed(client: AsyncClient, job_id: str) -> list[JobEvent]:
    """Return the events of a job, to its end."""
    if isinstance(client, AsyncClient):
        return [event async for event in client.events(job_id)]
    return await anyio.to_thread.run_sync(list, await client.events(job_id))

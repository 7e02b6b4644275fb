"""The bytes behind a user's URL in a local file: bounded in size and time, of a media type, from a public address.

httpx is imported with the first URL: it takes a fifth of the API's start, and many deployments never fetch one.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import filetype

from storage.errors import FetchFailed, FetchRefused

if TYPE_CHECKING:
    import httpx

    from storage.untrusted.pinned_http import PinnedTransport

FETCH_TIMEOUT_S = 60.0
"""Wall clock for the whole of a download: a server that drips bytes never times out otherwise."""
READ_TIMEOUT_S = 15.0
CHUNK_BYTES = 64 * 1024
_MEDIA = ("image/", "video/", "audio/")


@dataclass(frozen=True, slots=True)
class Fetched:
    size_bytes: int
    content_type: str
    extension: str


class RemoteFetcher:
    """`own_ports` are those of this deployment's processes. `transport` is injected by tests and by nobody else."""

    def __init__(
        self, *, max_bytes: int, own_ports: Iterable[int] = (), transport: "PinnedTransport | None" = None
    ) -> None:
        self._max_bytes = max_bytes
        self._own_ports = frozenset(own_ports)
        self._transport = transport

    async def fetch(self, url: str, path: Path) -> Fetched:
        """`FetchRefused` for a URL or content that is not allowed, `FetchFailed` where the other side failed."""
        import httpx

        from storage.untrusted.destinations import DestinationRefused, Destinations
        from storage.untrusted.pinned_http import PinnedTransport, pinned_client

        transport = self._transport or PinnedTransport(Destinations(own_ports=self._own_ports))
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S), pinned_client(transport, timeout_s=READ_TIMEOUT_S) as client:
                size = await self._download(client, url, path)
        except (DestinationRefused, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise FetchRefused(str(error)) from error
        except httpx.HTTPError as error:
            raise FetchFailed(f"{type(error).__name__}: {error}") from error
        except TimeoutError:
            raise FetchFailed(f"not finished within {FETCH_TIMEOUT_S:.0f} s") from None
        kind = filetype.guess(str(path))
        if kind is None or not kind.mime.startswith(_MEDIA):
            raise FetchRefused(f"not an image, video or audio file ({kind.mime if kind else 'unknown type'})")
        return Fetched(size, kind.mime, kind.extension)

    async def _download(self, client: "httpx.AsyncClient", url: str, path: Path) -> int:
        async with client.stream("GET", url) as response:
            if response.status_code != 200:
                raise FetchFailed(f"the server answered {response.status_code}")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise FetchRefused("the server sent a compressed body, which was not asked for")
            size = 0
            with path.open("wb") as file:
                async for chunk in response.aiter_raw(CHUNK_BYTES):
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise FetchRefused(f"larger than {self._max_bytes} bytes")
                    file.write(chunk)
            return size

"""ComfyUI's HTTP face: the one module of this room that speaks HTTP as a client."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp

from workers.comfy.engine import EngineSilent
from workers.errors import EngineUnavailable

TIMEOUT_S = 30.0
"""Per read: ComfyUI answers from its event loop, which a node that holds the GIL can delay."""
CONNECT_TIMEOUT_S = 3.0
CHUNK_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""Of JSON, which becomes six times as large in memory: a node may return any text. Files are not bounded by it."""


_NO_LINES = {ord("\r"): "%0D", ord("\n"): "%0A"}
"""A header has one line. The server stores the file under another name then, and says so."""


class AnswerTooLarge(EngineUnavailable):
    """The engine answered with more than `MAX_ANSWER_BYTES` of JSON."""


UNIX = "unix:"


def socket_of(url: str) -> str | None:
    """The path of the UNIX socket that a URL names; None for a URL of HTTP."""
    return url.removeprefix(UNIX) if url.startswith(UNIX) else None


class ComfyHttp:
    """Thin: routes in, status and JSON out. `EngineUnavailable` where no answer came, `EngineSilent` if in time.

    `url` is `http://HOST:PORT` or `unix:PATH`.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._base = self.url if socket_of(self.url) is None else "http://localhost"
        self._opened: aiohttp.ClientSession | None = None

    @property
    def _session(self) -> aiohttp.ClientSession:
        """Opened at the first request, since it belongs to the event loop that runs then."""
        if self._opened is None:
            path = socket_of(self.url)
            self._opened = aiohttp.ClientSession(
                connector=None if path is None else aiohttp.UnixConnector(path),
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S, sock_read=TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._opened

    def _request(self, method: str, path: str, **options: Any) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.request(method, self._base + path, allow_redirects=False, **options)

    async def get_json(self, path: str) -> dict[str, Any]:
        """The JSON object of a 200; anything else is `EngineUnavailable`."""
        answer = await self.find_json(path)
        if answer is None:
            raise EngineUnavailable(f"GET {path}: there is no such route")
        return answer

    async def find_json(self, path: str) -> dict[str, Any] | None:
        """As `get_json`, and None where the server has no such route."""
        async with _translated(f"GET {path}"), self._request("GET", path) as response:
            if response.status == 404:
                return None
            response.raise_for_status()
            answer = _parsed(await _content(response))
        if not isinstance(answer, dict):
            raise EngineUnavailable(f"GET {path}: the answer is not a JSON object")
        return answer

    async def post_json(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Status and body; the body is text where it is not JSON."""
        content = json.dumps(body).encode()  # as ComfyUI reads it: with NaN and lone surrogates
        return await self._posted(path, data=content, headers={"Content-Type": "application/json"})

    async def upload(self, name: str, subfolder: str, path: Path) -> tuple[int, Any]:
        """POST /upload/image, which takes any file; the name arrives raw."""
        with path.open("rb") as file:
            form = aiohttp.FormData(quote_fields=False)
            form.add_field("image", file, filename=name.translate(_NO_LINES))
            form.add_field("overwrite", "true")
            form.add_field("subfolder", subfolder)
            return await self._posted("/upload/image", data=form)

    async def _posted(self, path: str, **options: Any) -> tuple[int, Any]:
        async with _translated(f"POST {path}"), self._request("POST", path, **options) as response:
            return response.status, _parsed(await _content(response))

    async def view(self, filename: str, subfolder: str, folder: str, path: Path) -> int:
        """GET /view into a file, memory constant; returns the status."""
        query = {"filename": filename, "subfolder": subfolder, "type": folder}
        async with _translated("GET /view"), self._request("GET", "/view", params=query) as response:
            if response.status == 200:
                with path.open("wb") as file:
                    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                        file.write(chunk)
            return response.status

    async def changed_at(self, filename: str, subfolder: str, folder: str) -> datetime | None:
        """When the file that GET /view answers with was written, by the server's clock; None if there is none."""
        query = {"filename": filename, "subfolder": subfolder, "type": folder}
        async with _translated("HEAD /view"), self._request("HEAD", "/view", params=query) as response:
            return _moment(response, "Last-Modified") if response.status == 200 else None

    async def now(self) -> datetime | None:
        """By the server's clock, in whole seconds."""
        async with _translated("HEAD /prompt"), self._request("HEAD", "/prompt") as response:
            return _moment(response, "Date")

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()


async def _content(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise AnswerTooLarge(f"{response.method} {response.url.path}: more than {MAX_ANSWER_BYTES} bytes")
    return bytes(content)


def _moment(response: aiohttp.ClientResponse, header: str) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers[header])
    except (KeyError, ValueError):
        return None


def _parsed(content: bytes) -> Any:
    """JSON, with the bare NaN and Infinity that ComfyUI sends as None; else the text."""
    try:
        return json.loads(content, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return content.decode(errors="replace")


@asynccontextmanager
async def _translated(request: str) -> AsyncIterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise EngineSilent(f"{request}: {type(error).__name__}") from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise EngineUnavailable(f"{request}: {type(error).__name__}: {error}") from error

"""ComfyUI's HTTP interface: the only HTTP client of the workers."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp

from workers.comfy.engine import ANY_SIZE, EngineSilent
from workers.errors import EngineUnavailable
from workflows import engine_json

TIMEOUT_S = 30.0
"""Seconds per read: a node that holds the GIL can delay ComfyUI's event loop."""
CONNECT_TIMEOUT_S = 3.0
CHUNK_BYTES = 1024 * 1024
REQUEST_S = 60.0
"""Seconds for a whole request and its JSON response, which an engine could otherwise send byte by byte for ever. Files
have no such limit."""
PARSED_AT_ONCE = 64 * 1024
"""Bytes of JSON that are parsed in the event loop; more takes up to a second, in a thread."""
MAX_ANSWER_BYTES = engine_json.MAX_ENGINE_WEIGHT
"""Maximum bytes of a JSON response, since a node may return any text, and its maximum weight. Lists in lists take 70
times their bytes of memory. It does not limit files."""


_NO_LINES = {ord("\r"): "%0D", ord("\n"): "%0A"}
"""Escapes for a file name in a header, which has one line. The server then stores another name and returns it."""


class AnswerTooLarge(EngineUnavailable):
    """The engine answered with JSON of more bytes or weight than `MAX_ANSWER_BYTES`, or with too large a file."""


UNIX = "unix:"


def socket_of(url: str) -> str | None:
    """Return the path of the UNIX socket in a URL; None for an HTTP URL."""
    return url.removeprefix(UNIX) if url.startswith(UNIX) else None


class ComfyHttp:
    """A thin client of ComfyUI's routes. `url` is `http://HOST:PORT` or `unix:PATH`.

    Methods raise `EngineUnavailable` without a response, `EngineSilent` after a timeout. A request for JSON may take
    `request_s` seconds in all.
    """

    def __init__(self, url: str, *, request_s: float = REQUEST_S) -> None:
        self.url = url.rstrip("/")
        self._request_s = request_s
        self._base = self.url if socket_of(self.url) is None else "http://localhost"
        self._opened: aiohttp.ClientSession | None = None

    @property
    def _session(self) -> aiohttp.ClientSession:
        """The session, opened at the first request."""
        if self._opened is None:
            # Not earlier, because a session belongs to the event loop in which it is created.
            path = socket_of(self.url)
            self._opened = aiohttp.ClientSession(
                connector=None if path is None else aiohttp.UnixConnector(path),
                timeout=_timeout(self._request_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._opened

    def _request(self, method: str, path: str, **options: Any) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.request(method, self._base + path, allow_redirects=False, **options)

    async def get_json(self, path: str, *, max_weight: int = MAX_ANSWER_BYTES) -> dict[str, Any]:
        """Return the JSON object of a 200. Raises `EngineUnavailable` for any other response."""
        answer = await self.find_json(path, max_weight=max_weight)
        if answer is None:
            raise EngineUnavailable(f"GET {path}: there is no such route")
        return answer

    async def find_json(self, path: str, *, max_weight: int = MAX_ANSWER_BYTES) -> dict[str, Any] | None:
        """Do as `get_json`, but return None if the server has no such route."""
        async with _translated(f"GET {path}"), self._request("GET", path) as response:
            if response.status == 404:
                return None
            response.raise_for_status()
            answer = await _parsed(response, max_weight)
        if not isinstance(answer, dict):
            raise EngineUnavailable(f"GET {path}: the answer is not a JSON object")
        return answer

    async def post_json(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Post JSON and return status and body, which is text if it is not JSON."""
        content = json.dumps(body).encode()  # ComfyUI also reads NaN and lone surrogates
        return await self._posted(path, data=content, headers={"Content-Type": "application/json"})

    async def upload(self, name: str, subfolder: str, path: Path) -> tuple[int, Any]:
        """Upload a file of any type by POST /upload/image; the name is sent unescaped."""
        with path.open("rb") as file:
            # ComfyUI stores a percent-encoded name as it is.
            form = aiohttp.FormData(quote_fields=False)
            form.add_field("image", file, filename=name.translate(_NO_LINES))
            form.add_field("overwrite", "true")
            form.add_field("subfolder", subfolder)
            return await self._posted("/upload/image", data=form, timeout=_timeout(None))

    async def _posted(self, path: str, **options: Any) -> tuple[int, Any]:
        async with _translated(f"POST {path}"), self._request("POST", path, **options) as response:
            return response.status, await _parsed(response)

    async def view(self, filename: str, subfolder: str, folder: str, path: Path, *, max_bytes: int = ANY_SIZE) -> int:
        """Download GET /view to a file in constant memory and return the status. Raises `AnswerTooLarge`."""
        options = {
            "params": {"filename": filename, "subfolder": subfolder, "type": folder},
            "timeout": _timeout(None),
        }
        async with _translated("GET /view"), self._request("GET", "/view", **options) as response:
            if response.status == 200:
                with path.open("wb") as file:
                    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                        if file.tell() + len(chunk) > max_bytes:
                            raise AnswerTooLarge(f"GET /view: more than {max_bytes} bytes")
                        file.write(chunk)
            return response.status

    async def changed_at(self, filename: str, subfolder: str, folder: str) -> datetime | None:
        """Return when the file of GET /view was written, by the server's clock; None if it does not exist."""
        query = {"filename": filename, "subfolder": subfolder, "type": folder}
        async with _translated("HEAD /view"), self._request("HEAD", "/view", params=query) as response:
            return _moment(response, "Last-Modified") if response.status == 200 else None

    async def now(self) -> datetime | None:
        """Return the time of the server's clock in whole seconds, or None."""
        async with _translated("HEAD /prompt"), self._request("HEAD", "/prompt") as response:
            return _moment(response, "Date")

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()


def _timeout(total_s: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total_s, connect=CONNECT_TIMEOUT_S, sock_read=TIMEOUT_S)


def _moment(response: aiohttp.ClientResponse, header: str) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers[header])
    except (KeyError, ValueError, OverflowError):
        return None


async def _parsed(response: aiohttp.ClientResponse, max_weight: int = MAX_ANSWER_BYTES) -> Any:
    """Read a JSON response strictly; return the text if it is not JSON. Raises `AnswerTooLarge`."""
    request, content = f"{response.method} {response.url.path}", bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise AnswerTooLarge(f"{request}: more than {MAX_ANSWER_BYTES} bytes")
    try:
        if len(content) <= PARSED_AT_ONCE:
            return engine_json.parsed(content)
        return await asyncio.to_thread(engine_json.parsed, content, max_weight=max_weight)
    except engine_json.TooHeavy as error:
        raise AnswerTooLarge(f"{request}: too many values in the JSON: {error}") from error
    except (ValueError, RecursionError):
        return content.decode(errors="replace")


@asynccontextmanager
async def _translated(request: str) -> AsyncIterator[None]:
    try:
        yield
    except TimeoutError as error:  # before the others: aiohttp's timeouts are of both kinds
        raise EngineSilent(f"{request}: {type(error).__name__}") from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise EngineUnavailable(f"{request}: {type(error).__name__}: {error}") from error

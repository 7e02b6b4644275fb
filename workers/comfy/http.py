"""ComfyUI's HTTP face: the one module of this room that speaks HTTP as a client."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from workers.comfy.engine import EngineSilent
from workers.errors import EngineUnavailable

TIMEOUT_S = 30.0
"""Per read: ComfyUI answers from its event loop, which a node that holds the GIL can delay."""
CONNECT_TIMEOUT_S = 3.0
CHUNK_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""Of JSON, which becomes six times as large in memory: a node may return any text. Files are not bounded by it."""


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
        path = socket_of(self.url)
        timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._client = httpx.AsyncClient(
            base_url=self.url if path is None else "http://localhost",
            transport=None if path is None else httpx.AsyncHTTPTransport(uds=path),
            timeout=timeout,
            trust_env=False,
        )

    async def get_json(self, path: str) -> dict[str, Any]:
        """The JSON object of a 200; anything else is `EngineUnavailable`."""
        answer = await self.find_json(path)
        if answer is None:
            raise EngineUnavailable(f"GET {path}: there is no such route")
        return answer

    async def find_json(self, path: str) -> dict[str, Any] | None:
        """As `get_json`, and None where the server has no such route."""
        async with _translated(f"GET {path}"), self._client.stream("GET", path) as response:
            if response.status_code == 404:
                return None
            response.raise_for_status()
            answer = _parsed(await _content(response))
        if not isinstance(answer, dict):
            raise EngineUnavailable(f"GET {path}: the answer is not a JSON object")
        return answer

    async def post_json(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Status and body; the body is text where it is not JSON."""
        content = json.dumps(body).encode()  # as ComfyUI reads it: httpx's own way refuses NaN and lone surrogates
        headers = {"Content-Type": "application/json"}
        async with (
            _translated(f"POST {path}"),
            self._client.stream("POST", path, content=content, headers=headers) as response,
        ):
            return response.status_code, _parsed(await _content(response))

    async def upload(self, name: str, subfolder: str, path: Path) -> tuple[int, Any]:
        """POST /upload/image, which takes any file; the name arrives raw."""
        with path.open("rb") as file:
            async with _translated("POST /upload/image"):
                response = await self._client.post(
                    "/upload/image", files={"image": (name, file)}, data={"overwrite": "true", "subfolder": subfolder}
                )
        return response.status_code, _parsed(response.content)

    async def view(self, filename: str, subfolder: str, folder: str, path: Path) -> int:
        """GET /view into a file, memory constant; returns the status."""
        query = {"filename": filename, "subfolder": subfolder, "type": folder}
        async with _translated("GET /view"), self._client.stream("GET", "/view", params=query) as response:
            if response.status_code == 200:
                with path.open("wb") as file:
                    async for chunk in response.aiter_bytes(CHUNK_BYTES):
                        file.write(chunk)
            return response.status_code

    async def changed_at(self, filename: str, subfolder: str, folder: str) -> datetime | None:
        """When the file that GET /view answers with was written, by the server's clock; None if there is none."""
        query = {"filename": filename, "subfolder": subfolder, "type": folder}
        async with _translated("HEAD /view"):
            response = await self._client.head("/view", params=query)
        return _moment(response, "Last-Modified") if response.status_code == 200 else None

    async def now(self) -> datetime | None:
        """By the server's clock, in whole seconds."""
        async with _translated("HEAD /prompt"):
            return _moment(await self._client.head("/prompt"), "Date")

    async def close(self) -> None:
        await self._client.aclose()


async def _content(response: httpx.Response) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            request = response.request
            raise AnswerTooLarge(f"{request.method} {request.url.path}: more than {MAX_ANSWER_BYTES} bytes")
    return bytes(content)


def _moment(response: httpx.Response, header: str) -> datetime | None:
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
    except httpx.TimeoutException as error:
        raise EngineSilent(f"{request}: {type(error).__name__}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EngineUnavailable(f"{request}: {type(error).__name__}: {error}") from error

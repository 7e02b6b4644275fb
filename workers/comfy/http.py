"""ComfyUI's HTTP face: the one module of this room that speaks HTTP as a client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from workers.errors import EngineUnavailable

TIMEOUT_S = 30.0
"""Per read: ComfyUI answers from its event loop, which a node that holds the GIL can delay."""
CONNECT_TIMEOUT_S = 3.0
CHUNK_BYTES = 1024 * 1024


class ComfyHttp:
    """Thin: routes in, status and JSON out. Every method raises `EngineUnavailable` where no answer came."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")
        timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._client = httpx.AsyncClient(base_url=self.base_url, timeout=timeout, trust_env=False)

    async def get_json(self, path: str) -> Any:
        """The body of a 200; anything else is `EngineUnavailable`."""
        async with _translated(f"GET {path}"):
            response = await self._client.get(path)
            response.raise_for_status()
            return response.json()

    async def post_json(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and body; the body is text where it is not JSON."""
        async with _translated(f"POST {path}"):
            response = await self._client.post(path, json=body)
        try:
            return response.status_code, response.json()
        except ValueError:
            return response.status_code, response.text

    async def upload(self, name: str, path: Path) -> tuple[int, Any]:
        """POST /upload/image, which takes any file; the name arrives raw."""
        with path.open("rb") as file:
            async with _translated("POST /upload/image"):
                response = await self._client.post(
                    "/upload/image", files={"image": (name, file)}, data={"overwrite": "true"}
                )
        try:
            return response.status_code, response.json()
        except ValueError:
            return response.status_code, response.text

    async def view(self, filename: str, subfolder: str, folder: str, path: Path) -> int:
        """GET /view into a file, memory constant; returns the status."""
        query = {"filename": filename, "subfolder": subfolder, "type": folder}
        async with _translated("GET /view"), self._client.stream("GET", "/view", params=query) as response:
            if response.status_code == 200:
                with path.open("wb") as file:
                    async for chunk in response.aiter_bytes(CHUNK_BYTES):
                        file.write(chunk)
            return response.status_code

    async def close(self) -> None:
        await self._client.aclose()


@asynccontextmanager
async def _translated(request: str) -> AsyncIterator[None]:
    try:
        yield
    except (httpx.HTTPError, ValueError) as error:
        raise EngineUnavailable(f"{request}: {type(error).__name__}: {error}") from error

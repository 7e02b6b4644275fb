"""ComfyUI alone: POST /prompt, the end by its WebSocket, the result by GET /history."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from tests.bench.overhead.client import get_json, get_picture, http_client, post_json
from tests.bench.overhead.engine import running_engine
from tests.bench.overhead.graphs import fresh_graph
from tests.bench.overhead.load import Job
from tests.bench.overhead.waiting import Waiting


class RawComfy:
    """One socket for all clients, as a back end would have."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session
        self._client_id = uuid.uuid4().hex
        self._ended = Waiting[None]()

    async def listen(self, connected: asyncio.Event) -> None:
        async with self._session.ws_connect(f"{self._url}/ws?clientId={self._client_id}", max_msg_size=0) as socket:
            connected.set()
            async for frame in socket:
                if frame.type is aiohttp.WSMsgType.TEXT:
                    message = json.loads(frame.data)
                    if message["type"] == "executing" and message["data"]["node"] is None:
                        self._ended.happened(message["data"]["prompt_id"], None)

    async def to_history(self) -> str:
        """Return the URL of the output."""
        prompt_id = str(uuid.uuid4())
        body = {"prompt": fresh_graph(), "prompt_id": prompt_id, "client_id": self._client_id}
        await post_json(self._session, f"{self._url}/prompt", body)
        await self._ended.of(prompt_id)
        entry = (await get_json(self._session, f"{self._url}/history/{prompt_id}"))[prompt_id]
        (image,) = entry["outputs"]["2"]["images"]
        return f"{self._url}/view?" + "&".join(f"{name}={value}" for name, value in image.items())

    async def to_bytes(self) -> None:
        await get_picture(self._session, await self.to_history())


@asynccontextmanager
async def raw() -> AsyncIterator[dict[str, Job]]:
    async with running_engine() as (url, _), http_client() as session:
        comfy, connected = RawComfy(url, session), asyncio.Event()
        listening = asyncio.create_task(comfy.listen(connected))
        await connected.wait()
        try:
            yield {"history read": _without_result(comfy), "output downloaded": comfy.to_bytes}
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


def _without_result(comfy: RawComfy) -> Job:
    async def job() -> None:
        await comfy.to_history()

    return job

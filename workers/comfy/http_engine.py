"""`ComfyEngine` over ComfyUI's HTTP and WebSocket."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect as connect_socket
from websockets.exceptions import ConnectionClosed, WebSocketException

from workers.comfy.engine import FileRef, History, Prompt
from workers.comfy.files import EngineFiles, RemoteFiles
from workers.comfy.http import ComfyHttp
from workers.comfy.refusals import refusal
from workers.errors import EngineUnavailable
from workflows.messages import Message, decode_binary, decode_pair, decode_text

FEATURE_FLAGS = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
"""As the first message of a socket: previews then carry the id of their node."""

PING_INTERVAL_S = 20.0
PONG_TIMEOUT_S = 120.0
"""ComfyUI answers pings from its event loop, which loading a model can hold for a while."""


class HttpEngine:
    """`files` None means that ComfyUI's folders are not on this machine: files then travel by HTTP."""

    def __init__(self, base_url: str, files: EngineFiles | None = None) -> None:
        self._http = ComfyHttp(base_url)
        self._files: EngineFiles = files or RemoteFiles(self._http)

    @property
    def url(self) -> str:
        return self._http.base_url

    async def submit(self, prompt: Prompt) -> None:
        body = {
            "prompt": dict(prompt.graph),
            "prompt_id": prompt.prompt_id,
            "client_id": prompt.client_id,
            "extra_data": dict(prompt.extra_data),
        }
        try:
            status, answer = await self._http.post_json("/prompt", body)
        except EngineUnavailable:
            if await self._is_known(prompt.prompt_id):
                return  # it was taken, only the answer was lost
            raise
        refused = refusal(status, answer)
        if refused is None:
            return
        if status == 200:
            await self.interrupt(prompt.prompt_id)
        elif status >= 500 and await self._is_known(prompt.prompt_id):
            return  # queued although the answer says otherwise
        raise refused

    @asynccontextmanager
    async def connect(self, client_id: str) -> AsyncIterator[AsyncIterator[Message]]:
        url = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
        try:
            async with connect_socket(
                url,
                max_size=None,
                compression=None,
                proxy=None,
                ping_interval=PING_INTERVAL_S,
                ping_timeout=PONG_TIMEOUT_S,
            ) as socket:
                await socket.send(FEATURE_FLAGS)
                yield _messages(socket)
        except (OSError, TimeoutError, WebSocketException) as error:
            raise EngineUnavailable(f"the WebSocket failed: {type(error).__name__}: {error}") from error

    async def interrupt(self, prompt_id: str) -> None:
        await self._http.post_json("/queue", {"delete": [prompt_id]})
        await self._http.post_json("/interrupt", {"prompt_id": prompt_id})

    async def history(self, prompt_id: str) -> History | None:
        answer = await self._http.get_json(f"/history/{prompt_id}")
        entry = answer.get(prompt_id) if isinstance(answer, dict) else None
        if not isinstance(entry, dict) or not isinstance(entry.get("status"), dict):
            return None
        status = entry["status"]
        return History(
            status_str=str(status.get("status_str")),
            completed=bool(status.get("completed")),
            outputs=entry.get("outputs") or {},
            messages=tuple(decode_pair(kind, data) for kind, data in status.get("messages") or ()),
        )

    async def is_queued(self, prompt_id: str) -> bool:
        queue = await self._http.get_json("/queue")
        waiting = [*queue.get("queue_running", ()), *queue.get("queue_pending", ())]
        return any(prompt_id in item[:2] for item in waiting)

    async def object_info(self) -> dict[str, Any]:
        info: dict[str, Any] = await self._http.get_json("/object_info")
        return info

    async def check_ready(self) -> None:
        """`EngineUnavailable` unless it serves requests. (Answering says nothing of its worker thread.)"""
        await self._http.get_json("/system_stats")

    async def clean(self) -> None:
        await self._files.clean()

    async def stage(self, name: str, path: Path) -> None:
        await self._files.stage(name, path)

    async def fetch(self, ref: FileRef) -> Path:
        return await self._files.fetch(ref)

    async def close(self) -> None:
        if isinstance(self._files, RemoteFiles):
            self._files.close()
        await self._http.close()

    async def _is_known(self, prompt_id: str) -> bool:
        return await self.is_queued(prompt_id) or await self.history(prompt_id) is not None


async def _messages(socket: Any) -> AsyncIterator[Message]:
    try:
        async for frame in socket:
            yield decode_text(frame) if isinstance(frame, str) else decode_binary(frame)
    except ConnectionClosed:
        return

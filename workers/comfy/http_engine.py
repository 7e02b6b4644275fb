"""`ComfyEngine` over ComfyUI's HTTP and WebSocket."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.asyncio.client import connect as connect_socket
from websockets.exceptions import ConnectionClosed, WebSocketException

from workers.comfy.engine import EngineFiles, EngineSilent, History, Prompt, PromptQueue
from workers.comfy.files import RemoteFiles
from workers.comfy.http import MAX_ANSWER_BYTES, AnswerTooLarge, ComfyHttp, socket_of
from workers.comfy.refusals import node_errors_of, refusal
from workers.errors import EngineUnavailable, OutputFailed, PromptRefused
from workflows.declarations import ADDED_INSIDE
from workflows.json_weight import weight
from workflows.messages import Message, decode_binary, decode_pair, decode_text, is_id

logger = logging.getLogger(__name__)

FEATURE_FLAGS = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
"""The first message of a socket, after which previews carry the id of their node."""

PING_INTERVAL_S = 20.0
PONG_TIMEOUT_S = 120.0
"""Seconds for a pong, since ComfyUI's event loop can be blocked while a model loads."""
CLOSE_TIMEOUT_S = 1.0
"""Seconds for the peer's part of the closing handshake, which a half-open socket never sends."""
MAX_DECLARATIONS_WEIGHT = 2 * MAX_ANSWER_BYTES
"""Maximum weight of object_info, which hundreds of node packs fill, and with many short names. Its bytes have the limit
of other answers. That of ComfyUI's own nodes weighs 3.4 MB."""
MAX_QUEUE = 1
"""Frames beyond which the library stops reading, since each may have `MAX_ANSWER_BYTES`. Its default is 16."""

MOST_UNSENT = 32 * 1024
"""Bytes written to a socket that the engine has not read, from which on it is aborted."""

WITHDRAW_TRIES = 20
WITHDRAW_EVERY_S = 0.25


class _Socket(ClientConnection):
    def pause_writing(self) -> None:
        """Abort the connection: more than `MOST_UNSENT` waits to be read."""
        # Beyond one short message a worker sends answers to pings alone. The library writes them without a limit, and
        # its `close` would wait until they are read.
        self.transport.abort()


class HttpEngine:
    """`url` is that of `ComfyHttp`. `files` None: ComfyUI's folders are on another machine, and files go by HTTP."""

    def __init__(self, url: str, files: EngineFiles | None = None) -> None:
        self.showing: set[str] = set()
        self._http = ComfyHttp(url)
        self.files: EngineFiles = files or RemoteFiles(self._http)

    @property
    def url(self) -> str:
        return self._http.url

    async def submit(self, prompt: Prompt) -> Mapping[str, Any] | None:
        body = {
            "prompt": dict(prompt.graph),
            "prompt_id": prompt.prompt_id,
            "client_id": prompt.client_id,
            "extra_data": dict(prompt.extra_data),
        }
        answer = await self._post_prompt(prompt.prompt_id, body)
        if answer is None:
            return None
        refused = refusal(*answer, is_strict=prompt.is_strict)
        if refused is None:
            return node_errors_of(answer[1])
        # ComfyUI queued the valid part, and a strict job runs as a whole or not at all.
        if answer[0] == 200:
            await self._withdraw(prompt.prompt_id)
        elif answer[0] >= 500 and await self._is_known(prompt.prompt_id):
            return None  # queued despite the response
        raise refused

    async def _post_prompt(self, prompt_id: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        """Post a prompt and return status and body; None if it was accepted but the response was lost."""
        try:
            return await self._http.post_json("/prompt", body)
        except AnswerTooLarge as error:  # too many node_errors, whether the prompt was accepted or not
            await self._withdraw(prompt_id)
            most = MAX_ANSWER_BYTES // 1024**2
            raise PromptRefused(
                f"what ComfyUI finds wrong with the graph has more than {most} MiB, or too many values"
            ) from error
        except EngineUnavailable as error:
            if await self._is_known(prompt_id):  # posted again, it would run twice
                return None
            if isinstance(error, EngineSilent):  # after a timeout ComfyUI may still be reading it
                raise
        return await self._http.post_json("/prompt", body)

    async def _withdraw(self, prompt_id: str) -> None:
        """Interrupt a refused prompt that ComfyUI accepted in part, until it has left the queue; delete its history."""
        try:
            for _ in range(WITHDRAW_TRIES):
                await self.interrupt(prompt_id)
                if prompt_id not in await self.queue():
                    await self.forget(prompt_id)
                    return
                await asyncio.sleep(WITHDRAW_EVERY_S)
        except EngineUnavailable as error:
            logger.debug("withdrawing %s: %s", prompt_id, error)
        logger.warning("the accepted part of the refused prompt %s still runs", prompt_id)

    @asynccontextmanager
    async def connect(self, client_id: str) -> AsyncIterator[AsyncIterator[tuple[Message, int]]]:
        socket = await self._open_socket(f"/ws?clientId={client_id}")
        try:
            yield _messages(socket)
        finally:
            try:
                async with asyncio.timeout(2 * CLOSE_TIMEOUT_S):
                    await socket.close()
            except TimeoutError:
                socket.transport.abort()

    async def _open_socket(self, path: str) -> ClientConnection:
        options: dict[str, Any] = {
            "max_size": MAX_ANSWER_BYTES,  # a larger message closes the socket; the history has its content
            "max_queue": MAX_QUEUE,
            "compression": None,
            "proxy": None,  # by default the environment's
            "ping_interval": PING_INTERVAL_S,
            "ping_timeout": PONG_TIMEOUT_S,
            "close_timeout": CLOSE_TIMEOUT_S,
            "write_limit": MOST_UNSENT,
            "create_connection": _Socket,
        }
        try:
            unix = socket_of(self.url)
            if unix is None:
                socket = await connect_socket(self.url.replace("http", "ws", 1) + path, **options)
            else:
                socket = await unix_connect(unix, f"ws://localhost{path}", **options)
            try:
                await socket.send(FEATURE_FLAGS)
            except BaseException:  # cancelled as well
                socket.transport.abort()
                raise
        except (OSError, TimeoutError, WebSocketException) as error:
            raise EngineUnavailable(f"the WebSocket failed: {type(error).__name__}: {error}") from error
        return socket

    async def interrupt(self, prompt_id: str) -> None:
        # In this order: a prompt that leaves the queue between the two requests is running at the second.
        await self._http.post_json("/queue", {"delete": [prompt_id]})
        await self._http.post_json("/interrupt", {"prompt_id": prompt_id})

    async def history(self, prompt_id: str) -> History | None:
        try:
            entry = (await self._http.get_json(f"/history/{prompt_id}")).get(prompt_id)
        except AnswerTooLarge as error:
            most = MAX_ANSWER_BYTES // 1024**2
            raise OutputFailed(
                f"the nodes' results have more than {most} MiB of text in all, or too many values"
            ) from error
        if not isinstance(entry, dict) or not isinstance(entry.get("status"), dict):
            return None
        status, outputs = entry["status"], _mapping(entry.get("outputs"))
        pairs = [pair for pair in _list(status.get("messages")) if isinstance(pair, list) and len(pair) == 2]
        return History(
            status_str=str(status.get("status_str")),
            completed=bool(status.get("completed")),
            outputs={node: ui for node, ui in outputs.items() if is_id(node) and isinstance(ui, dict)},
            messages=tuple(decode_pair(kind, data) for kind, data in pairs),
        )

    async def forget(self, prompt_id: str) -> None:
        await self._http.post_json("/history", {"delete": [prompt_id]})

    async def queue(self) -> PromptQueue:
        queue = await self._http.get_json("/queue")
        return PromptQueue(_ids(queue.get("queue_running")), _ids(queue.get("queue_pending")))

    async def object_info(self) -> dict[str, Any]:
        return await self._http.get_json("/object_info", max_weight=MAX_DECLARATIONS_WEIGHT)

    async def declarations(self) -> dict[str, Any]:
        info = await self.object_info()
        asked = await self._http.find_json("/comfyui-modal/declarations") or {}
        for class_type, about in asked.items():
            if isinstance(info.get(class_type), dict) and isinstance(about, dict):
                info[class_type] |= {name: about[name] for name in ADDED_INSIDE if name in about}
        return info

    async def system_stats(self) -> dict[str, Any]:
        return await self._http.get_json("/system_stats")

    async def command_line(self) -> list[str] | None:
        """Return the server's command line from /system_stats, None if it is missing.

        A response shows that HTTP is served; it does not show that the execution thread works.
        """
        system = (await self.system_stats()).get("system")
        arguments = system.get("argv") if isinstance(system, dict) else None
        return [str(argument) for argument in arguments] if isinstance(arguments, list) else None

    async def free(self) -> None:
        """Unload every model and empty the caches as soon as nothing runs (POST /free)."""
        await self._http.post_json("/free", {"unload_models": True, "free_memory": True})

    async def restore(self) -> str:
        """Make ComfyUI detect the GPU again after a snapshot (`engine_side/`); return torch's device type."""
        status, answer = await self._http.post_json("/comfyui-modal/restore", {})
        if status != 200 or not isinstance(answer, dict):
            raise EngineUnavailable(f"it could not be restored: {status} {str(answer)[:300]}")
        return str(answer.get("device"))

    async def close(self) -> None:
        if isinstance(self.files, RemoteFiles):
            self.files.close()
        await self._http.close()

    async def _is_known(self, prompt_id: str) -> bool:
        return prompt_id in await self.queue() or await self.history(prompt_id) is not None


def _ids(items: Any) -> frozenset[str]:
    """Return the prompt ids of queue items, which are [number, prompt_id, …]."""
    found = (item[1] for item in _list(items) if isinstance(item, list) and len(item) > 1)
    return frozenset(prompt_id for prompt_id in found if isinstance(prompt_id, str))


def _list(value: Any) -> list[Any]:
    """Return a member of an answer; a proxy in front of ComfyUI, or a node's code, may have put anything there."""
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


async def _messages(socket: ClientConnection) -> AsyncIterator[tuple[Message, int]]:
    try:
        async for frame in socket:
            if isinstance(frame, str):
                yield decode_text(frame), weight(frame)
            else:
                yield decode_binary(frame), len(frame)
    except ConnectionClosed:
        return

"""The routes of ComfyUI that clients of a headless server use, each also available under /api."""

import asyncio
import ipaddress
import itertools
import json
import platform
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web

from workers.lite.clients import Clients
from workers.lite.executor import Executor
from workers.lite.file_routes import FileRoutes
from workers.lite.folders import Folders
from workers.lite.jobs import UUID, JobRoutes
from workers.lite.node import NodeClass
from workers.lite.prompts import Prompts, QueuedPrompt
from workers.lite.validation import Refused, Validator

VERSION = "0.33.0"
"""The version of ComfyUI whose behaviour this server has."""

_BAD_PROMPT_ID = {
    "type": "invalid_prompt_id",
    "message": "prompt_id must be a valid UUID",
    "details": "prompt_id must be a UUID string in canonical lowercase hyphenated form; "
    "omit it to let the server generate one",
    "extra_info": {},
}
_SECRETS = ("api_key_comfy_org", "auth_token_comfy_org")
"""Keys that are never returned; no node uses them here."""
_NO_PROMPT = {
    "type": "no_prompt",
    "message": "No prompt provided",
    "details": "No prompt provided",
    "extra_info": {},
}


class LiteServer:
    """The handlers and the state that they share with the executor's thread."""

    def __init__(
        self, classes: dict[str, NodeClass], folders: Folders, *, max_upload_bytes: int, metadata: bool
    ) -> None:
        self._classes = classes
        self._folders = folders
        self._max_upload_bytes = max_upload_bytes
        self._clients = Clients(asyncio.get_running_loop())
        self._prompts = Prompts(self._send_status)
        self._executor = Executor(classes, folders, self._clients, metadata=metadata)
        self._validator = Validator(classes, folders)
        self._files = FileRoutes(folders)
        self._numbers = itertools.count()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=self._max_upload_bytes, middlewares=[check_origin])
        app.router.add_get("/", self.root)
        app.router.add_routes(JobRoutes(self._prompts, self._executor).all())
        for prefix in ("", "/api"):
            app.router.add_routes(self._routes(prefix))
        app.cleanup_ctx.append(self._background)
        return app

    def _routes(self, prefix: str) -> list[web.RouteDef]:
        return [
            web.get(f"{prefix}/ws", self.ws),
            web.get(f"{prefix}/prompt", self.get_prompt),
            web.post(f"{prefix}/prompt", self.post_prompt),
            web.get(f"{prefix}/queue", self.get_queue),
            web.post(f"{prefix}/queue", self.post_queue),
            web.get(f"{prefix}/history", self.get_history),
            web.post(f"{prefix}/history", self.post_history),
            web.get(f"{prefix}/history/{{prompt_id}}", self.get_history_of),
            web.post(f"{prefix}/interrupt", self.interrupt),
            web.post(f"{prefix}/free", self.free),
            *self._files.under(prefix),
            web.get(f"{prefix}/object_info", self.object_info),
            web.get(f"{prefix}/object_info/{{name}}", self.object_info_of),
            web.get(f"{prefix}/system_stats", self.system_stats),
            web.get(f"{prefix}/features", self.features),
            web.get(f"{prefix}/models", self.model_folders),
        ]

    async def _background(self, _: web.Application) -> Any:
        pump = asyncio.create_task(self._clients.pump())
        threading.Thread(target=self._executor.run_forever, args=(self._prompts,), daemon=True).start()
        yield
        pump.cancel()

    def _send_status(self) -> None:
        self._clients.send("status", self._status(), None)

    def _status(self) -> dict[str, Any]:
        return {"status": {"exec_info": {"queue_remaining": self._prompts.remaining}}}

    def _flags(self) -> dict[str, Any]:
        return {"supports_preview_metadata": True, "max_upload_size": self._max_upload_bytes}

    # The socket.

    async def ws(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        self._clients.add(client_id, socket)
        try:
            await socket.send_json({"type": "status", "data": {**self._status(), "sid": client_id}})
            current = self._executor.current
            if current is not None and current[1] == client_id:  # a client that connects again
                await socket.send_json({"type": "executing", "data": {"node": current[0]}})
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await self._on_message(socket, client_id, message.data)
        finally:
            self._clients.remove(client_id)
        return socket

    async def _on_message(self, socket: web.WebSocketResponse, client_id: str, text: str) -> None:
        try:
            message = json.loads(text)
        except ValueError:
            return
        if isinstance(message, dict) and message.get("type") == "feature_flags":
            self._clients.set_flags(client_id, message.get("data") or {})
            await socket.send_json({"type": "feature_flags", "data": self._flags()})

    # Prompts.

    async def get_prompt(self, _: web.Request) -> web.Response:
        return web.json_response(self._status()["status"])

    async def post_prompt(self, request: web.Request) -> web.Response:
        """Queue a prompt. An invalid document is a 500 in plain text, as in ComfyUI."""
        body = json.loads(await request.text())
        if not isinstance(body, dict) or "prompt" not in body:
            return _refused(_NO_PROMPT)
        graph: dict[str, Any] = body["prompt"]
        prompt_id = body.get("prompt_id")
        if prompt_id is None:
            prompt_id = str(uuid.uuid4())
        elif not isinstance(prompt_id, str) or not UUID.fullmatch(prompt_id):
            return _refused(_BAD_PROMPT_ID)
        number = self._number(body)  # as in ComfyUI, a refused prompt uses up a number
        try:
            validated = self._validator.check(dict(graph.items()), body.get("partial_execution_targets"))
        except Refused as refused:
            return _refused(refused.error)
        if validated.error is not None:
            return _refused(validated.error, validated.node_errors)
        extra = _kept(dict(body.get("extra_data", {})))
        if "client_id" in body:
            extra["client_id"] = body["client_id"]
        self._prompts.put(QueuedPrompt(number, prompt_id, graph, extra, validated.outputs))
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": validated.node_errors})

    def _number(self, body: dict[str, Any]) -> float:
        if "number" in body:
            return float(body["number"])
        number = next(self._numbers)
        return -number if body.get("front") else number

    async def get_queue(self, _: web.Request) -> web.Response:
        return web.json_response(self._prompts.snapshot())

    async def post_queue(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("clear"):
            self._prompts.clear_waiting()
        for prompt_id in body.get("delete", ()):
            self._prompts.drop_waiting(prompt_id)
        return web.Response()

    async def interrupt(self, request: web.Request) -> web.Response:
        """Interrupt the running prompt, or only that of the id; always 200."""
        try:
            prompt_id = (await request.json()).get("prompt_id")
        except (ValueError, AttributeError):
            prompt_id = None
        if prompt_id is None or self._prompts.is_running(prompt_id):
            self._executor.interrupted.set()
        return web.Response()

    async def free(self, request: web.Request) -> web.Response:
        if (await request.json()).get("free_memory"):
            self._executor.forget.set()
        return web.Response()

    # History.

    async def get_history(self, request: web.Request) -> web.Response:
        limit = request.query.get("max_items")
        offset = int(request.query.get("offset", -1))
        return web.json_response(self._prompts.history(limit=int(limit) if limit else None, offset=offset))

    async def get_history_of(self, request: web.Request) -> web.Response:
        record = self._prompts.find_record(request.match_info["prompt_id"])
        return web.json_response({} if record is None else {record.prompt.prompt_id: record.as_json()})

    async def post_history(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("clear"):
            self._prompts.forget(None)
        self._prompts.forget(frozenset(body.get("delete", ())))
        return web.Response()

    # What the server is.

    async def object_info(self, _: web.Request) -> web.Response:
        return web.json_response({name: self._info(node) for name, node in self._classes.items()})

    async def object_info_of(self, request: web.Request) -> web.Response:
        node = self._classes.get(request.match_info["name"])
        return web.json_response({} if node is None else {node.name: self._info(node)})

    def _info(self, node: NodeClass) -> dict[str, Any]:
        info = node.object_info()
        if node.name == "LoadImage":
            files = sorted(entry.name for entry in self._folders.input.iterdir() if entry.is_file())
            info["input"]["required"]["image"] = [files, {"image_upload": True}]
        return info

    async def model_folders(self, _: web.Request) -> web.Response:
        """Return the kinds of models, of which there are none."""
        return web.json_response([])

    async def root(self, _: web.Request) -> web.Response:
        """Return a page, since clients request ComfyUI's front end to check whether it has started."""
        return web.Response(text="The lite engine has no front end.\n")

    async def features(self, _: web.Request) -> web.Response:
        return web.json_response(self._flags())

    async def system_stats(self, _: web.Request) -> web.Response:
        system = {"os": sys.platform, "comfyui_version": VERSION, "python_version": platform.python_version()}
        return web.json_response({"system": {**system, "engine": "lite"}, "devices": [{"name": "cpu", "type": "cpu"}]})


def _kept(extra_data: dict[str, Any]) -> dict[str, Any]:
    """Return a client's extra_data without the keys that are never returned."""
    kept = {key: value for key, value in extra_data.items() if key not in _SECRETS}
    return {**kept, "create_time": int(time.time() * 1000)}


def _refused(error: dict[str, Any], node_errors: dict[str, Any] | None = None) -> web.Response:
    return web.json_response({"error": error, "node_errors": node_errors or {}}, status=400)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def check_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return 403 for a loopback Host with another Origin, which is a foreign page in a browser on this machine."""
    if request.method == "OPTIONS":
        return web.Response()
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if host and origin:
        asked, asking = urlsplit(f"//{host}"), urlsplit(origin)
        if _is_loopback(asked.hostname) and asking.netloc and asked.netloc.lower() != asking.netloc.lower():
            return web.Response(status=403)
    return await handler(request)


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False

"""Exchanges messages with one engine and records them in the format of the original recordings."""

import asyncio
import base64
import json
import struct
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.conformance.graphs import Graph, OwnNodes

LONGEST_WAIT_S = 60.0
SETTLE_S = 0.05
_KEPT_BYTES = 200


class Socket:
    """One WebSocket, drained from the moment it opens."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.log: list[dict[str, Any]] = []
        self._connection = connection
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._connection:
            if message.type is aiohttp.WSMsgType.TEXT:
                self.log.append({"type": "text", "data": json.loads(message.data)})
            else:
                self.log.append({"type": "binary", "data": {"decoded": decode_binary(message.data)}})
            self._changed.set()

    async def until(self, wanted: Callable[[str, dict[str, Any]], bool]) -> None:
        """Wait for a text message, received already or not, whose type and data satisfy the condition."""
        async with asyncio.timeout(LONGEST_WAIT_S):
            while not any(_is(entry, wanted) for entry in self.log):
                self._changed.clear()
                await self._changed.wait()

    async def until_end(self, prompt_id: str) -> None:
        await self.until(
            lambda kind, data: kind == "executing" and data.get("node") is None and data["prompt_id"] == prompt_id
        )

    async def until_step(self, step: int) -> None:
        await self.until(lambda kind, data: kind == "progress" and data["value"] >= step)

    async def close(self) -> None:
        await self._connection.close()
        await self._reader


def _is(entry: Mapping[str, Any], wanted: Callable[[str, dict[str, Any]], bool]) -> bool:
    return entry["type"] == "text" and wanted(entry["data"]["type"], entry["data"]["data"])


def decode_binary(frame: bytes) -> dict[str, Any]:
    """Return the header of a binary frame; `magic` is the start of its picture."""
    (event,) = struct.unpack_from(">I", frame)
    (number,) = struct.unpack_from(">I", frame, 4)
    if event == 4:
        return {"event": 4, "metadata": json.loads(frame[8 : 8 + number]), "magic": frame[8 + number :][:8].hex()}
    return {"event": event, "image_type": number, "magic": frame[8:16].hex()}


class Traffic:
    """An open recording, which closes its sockets when it is closed."""

    def __init__(self, base_url: str, nodes: OwnNodes) -> None:
        self.nodes = nodes
        self._base_url = base_url
        self._calls: list[dict[str, Any]] = []
        self._sockets: dict[str, Socket] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LONGEST_WAIT_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for socket in self._sockets.values():
            await socket.close()
        await self._session.close()

    def recording(self) -> dict[str, Any]:
        logs = {name: socket.log for name, socket in self._sockets.items()}
        return {"http": self._calls, "ws": logs.pop("main", []), "ws_other": logs}

    async def socket(
        self, client_id: str | None, *, flags: Mapping[str, Any] | None = None, name: str = "main"
    ) -> Socket:
        query = f"?clientId={client_id}" if client_id else ""
        connection = await self._session.ws_connect(f"{self._base_url}/ws{query}", max_msg_size=0)
        if flags is not None:
            await connection.send_json({"type": "feature_flags", "data": flags})
        self._sockets[name] = Socket(connection)
        await asyncio.sleep(SETTLE_S)
        return self._sockets[name]

    async def get(self, path: str, note: str = "", **options: Any) -> Any:
        return await self.call("GET", path, note, **options)

    async def post(self, path: str, body: Any = None, note: str = "") -> Any:
        return await self.call("POST", path, note, **({} if body is None else {"json": body}))

    async def call(self, method: str, path: str, note: str = "", *, listing: bool = False, **options: Any) -> Any:
        """Return the body of the answer as JSON or text. With `listing` only the keys of a JSON answer are recorded."""
        async with self._session.request(method, self._base_url + path, **options) as response:
            body = await response.read()
            answer = _body(body, response.headers.get("Content-Type", ""))
        entry = {
            "method": method,
            "path": path,
            "request": options.get("json"),
            "status": response.status,
            "note": note,
        }
        if listing:
            self._calls.append({**entry, "response": list(answer) if isinstance(answer, dict) else answer})
        else:
            self._calls.append({**entry, "headers": dict(response.headers), "response": answer})
        return answer

    async def upload(self, content: bytes, filename: str, note: str = "", *, field: str = "image", **rest: str) -> Any:
        form = aiohttp.FormData()
        form.add_field(field, content, filename=filename, content_type="application/octet-stream")
        for name, value in rest.items():
            form.add_field(name, value)
        return await self.call("POST", "/upload/image", note, data=form)

    async def bytes_of(self, path: str) -> bytes:
        """Return the bytes of a file without recording the call."""
        async with self._session.get(self._base_url + path) as response:
            assert response.status == 200, (path, response.status)
            return await response.read()

    async def until_idle(self) -> None:
        """Wait until the queue is empty, without recording the calls."""
        async with asyncio.timeout(LONGEST_WAIT_S):
            while True:
                async with self._session.get(f"{self._base_url}/prompt") as response:
                    if (await response.json())["exec_info"]["queue_remaining"] == 0:
                        return
                await asyncio.sleep(SETTLE_S)

    async def until_running(self, prompt_id: str) -> None:
        """Wait for a prompt whose messages reach no socket, without recording the calls."""
        async with asyncio.timeout(LONGEST_WAIT_S):
            while True:
                async with self._session.get(f"{self._base_url}/queue") as response:
                    if any(entry[1] == prompt_id for entry in (await response.json())["queue_running"]):
                        return
                await asyncio.sleep(SETTLE_S)

    async def submit(self, graph: Graph, client_id: str | None = None, **extra: Any) -> str:
        body = {"prompt": graph, **extra, **({"client_id": client_id} if client_id else {})}
        answer = await self.post("/prompt", json.loads(json.dumps(body)))
        return str(answer["prompt_id"])

    async def history(self, prompt_id: str) -> Any:
        return (await self.get(f"/history/{prompt_id}")).get(prompt_id)

    async def run(self, graph: Graph, *, flags: Mapping[str, Any] | None = None) -> Any:
        """Return the history of a prompt, followed to its end on its own socket."""
        client_id = str(uuid.uuid4())
        socket = await self.socket(client_id, flags=flags)
        prompt_id = await self.submit(graph, client_id)
        await socket.until_end(prompt_id)
        return await self.history(prompt_id)


def _body(body: bytes, content_type: str) -> Any:
    if not body:
        return ""
    if "json" in content_type:
        return json.loads(body)
    if "text" in content_type:
        return body.decode()
    return {"base64_first_200": base64.b64encode(body[:_KEPT_BYTES]).decode(), "length": len(body)}

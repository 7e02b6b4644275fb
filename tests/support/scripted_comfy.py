"""A ComfyUI with scripted faults: a real server that plays each prompt by a test's own script.

It shows cases that neither real ComfyUI nor the lite engine produces on demand: lost answers, missing history, a socket
that is cut or silent, an ignored interrupt.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

Json = dict[str, Any]


@dataclass
class ComfyState:
    """The requests that the server has received and the state that it shows. `answers` are used before prompts are
    accepted."""

    posts: list[Json] = field(default_factory=list)
    queue: dict[str, Json] = field(default_factory=dict)
    history: dict[str, Json] = field(default_factory=dict)
    interrupts: list[str] = field(default_factory=list)
    deletes: list[str] = field(default_factory=list)
    first_frames: list[Json] = field(default_factory=list)
    sockets: dict[str, "Connection"] = field(default_factory=dict)
    answers: list["Answer"] = field(default_factory=list)
    broken_history: bool = False
    refuses_sockets: bool = False
    thread_is_dead: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a request after which the condition holds."""
        while not holds():
            self.changed.clear()
            await self.changed.wait()


@dataclass(frozen=True)
class Connection:
    """A client's WebSocket and its transport."""

    socket: web.WebSocketResponse
    transport: asyncio.Transport


@dataclass(frozen=True)
class Answer:
    """The answer to one POST /prompt. A `status` of None cuts the connection; with `accept` the prompt is queued
    anyway."""

    status: int | None
    body: Json | str = ""
    accept: bool = False


class Play:
    """The run of one prompt, driven by its script."""

    def __init__(self, state: ComfyState, prompt_id: str, client_id: str) -> None:
        self.state = state
        self.prompt_id = prompt_id
        self._client_id = client_id

    async def say(self, kind: str, **data: Any) -> None:
        """Send a message with this prompt's id, unless `data` names another."""
        await self.say_raw(json.dumps({"type": kind, "data": {"prompt_id": self.prompt_id, **data}}))

    async def say_raw(self, frame: str | bytes) -> None:
        connection = self.state.sockets.get(self._client_id)
        if connection is not None and not connection.socket.closed:
            send = connection.socket.send_str(frame) if isinstance(frame, str) else connection.socket.send_bytes(frame)
            await send

    async def cut(self) -> None:
        """Break the socket as a network failure does, and wait until the client reconnects."""
        self.state.sockets.pop(self._client_id).transport.abort()
        await self.state.until(lambda: self._client_id in self.state.sockets)

    def record(self, outputs: Mapping[str, Any], status: str = "success", messages: list[Any] | None = None) -> None:
        """Move the prompt from the queue to the history at once, as ComfyUI does."""
        self.state.queue.pop(self.prompt_id, None)
        self.state.history[self.prompt_id] = {
            "outputs": dict(outputs),
            "status": {"status_str": status, "completed": status == "success", "messages": messages or []},
        }

    async def succeed(self, outputs: Mapping[str, Any]) -> None:
        """End the prompt successfully."""
        await self.say("execution_success")
        self.record(outputs)
        await self.say("executing", node=None)

    async def until_interrupted(self, times: int = 1) -> None:
        await self.state.until(lambda: self.state.interrupts.count(self.prompt_id) >= times)


Script = Callable[[Play], Awaitable[None]]


class ScriptedComfy:
    """A server made by `serving`."""

    def __init__(self, script: Script, state: ComfyState) -> None:
        self.state = state
        self.url = ""
        self._script = script
        self._plays: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/ws", self._ws)
        app.router.add_post("/prompt", self._post_prompt)
        app.router.add_get("/queue", self._get_queue)
        app.router.add_post("/queue", self._post_queue)
        app.router.add_get("/history/{prompt_id}", self._get_history)
        app.router.add_post("/interrupt", self._interrupt)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0])

    async def die(self) -> None:
        """Stop listening and break every socket."""
        plays = list(self._plays)
        for play in plays:
            play.cancel()
        await asyncio.gather(*plays, return_exceptions=True)
        for connection in self.state.sockets.values():
            connection.transport.abort()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def failures(self) -> list[BaseException]:
        """Return the errors of scripts, so that a test does not pass with a broken script."""
        ended = [play for play in self._plays if play.done() and not play.cancelled()]
        return [error for play in ended if (error := play.exception()) is not None]

    async def _ws(self, request: web.Request) -> web.StreamResponse:
        if self.state.refuses_sockets:
            return web.Response(status=404)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert request.transport is not None
        self.state.sockets[request.query["clientId"]] = Connection(socket, request.transport)
        self.state.changed.set()
        await socket.send_str('{"type":"status","data":{"status":{"exec_info":{"queue_remaining":0}}}}')
        first = True
        async for message in socket:
            if message.type is WSMsgType.TEXT and first:
                self.state.first_frames.append(json.loads(message.data))
                first = False
        return socket

    async def _post_prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.state.posts.append(body)
        number = next(self._numbers)
        default = Answer(200, {"prompt_id": body["prompt_id"], "number": number, "node_errors": {}}, accept=True)
        answer = self.state.answers.pop(0) if self.state.answers else default
        if answer.accept:
            self.state.queue[body["prompt_id"]] = body
            play = Play(self.state, body["prompt_id"], body["client_id"])
            self._plays.add(asyncio.ensure_future(self._script(play)))
            self.state.changed.set()
        if answer.status is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(answer.body, str):
            return web.Response(status=answer.status, text=answer.body)
        return web.json_response(answer.body, status=answer.status)

    async def _get_queue(self, _: web.Request) -> web.Response:
        items = [[0, prompt_id, body["prompt"], {}, []] for prompt_id, body in self.state.queue.items()]
        running, waiting = ([], items) if self.state.thread_is_dead else (items, [])
        return web.json_response({"queue_running": running, "queue_pending": waiting})

    async def _post_queue(self, request: web.Request) -> web.Response:
        self.state.deletes += (await request.json())["delete"]
        return web.Response()

    async def _get_history(self, request: web.Request) -> web.Response:
        if self.state.broken_history:
            return web.Response(status=500, text="500 Internal Server Error")
        prompt_id = request.match_info["prompt_id"]
        entry = self.state.history.get(prompt_id)
        return web.json_response({} if entry is None else {prompt_id: entry})

    async def _interrupt(self, request: web.Request) -> web.Response:
        self.state.interrupts.append((await request.json())["prompt_id"])
        self.state.changed.set()
        return web.Response()


@asynccontextmanager
async def serving(script: Script, state: ComfyState | None = None) -> AsyncIterator[ScriptedComfy]:
    """Run the server while the context is open; raise the first error of a script at the end."""
    server = ScriptedComfy(script, state or ComfyState())
    await server.start()
    try:
        yield server
        failures = server.failures()
    finally:
        await server.die()
    if failures:
        raise failures[0]

"""A receiver of webhooks that fails by script and records every request."""

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

Behaviour = Literal["204", "410", "429", "500", "hang", "cut"]
"""A response with this status, no response in time, or one that ends within its body."""

HANG_S = 3.0


@dataclass(frozen=True, slots=True)
class Received:
    """A request; `answered` is the behaviour that the sender saw."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    answered: Behaviour

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event


class Receiver:
    """A receiver of events at `url(path)`. A path follows its script first and accepts everything after it."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self._scripts: dict[str, Iterator[Behaviour]] = {}
        self._base = ""
        self._lock = threading.Lock()

    def url(self, path: str) -> str:
        return f"{self._base}/{path}"

    def script(self, path: str, behaviours: Iterable[Behaviour]) -> None:
        with self._lock:
            self._scripts[path] = iter(behaviours)

    def on(self, path: str) -> list[Received]:
        """Return the requests to this path in order of arrival."""
        return [received for received in list(self.requests) if received.path == path]

    def taken(self, path: str) -> dict[str, list[Received]]:
        """Return the requests that were answered 2xx, by webhook-id."""
        taken = defaultdict(list)
        for received in self.on(path):
            if received.answered == "204":
                taken[received.headers["webhook-id"]].append(received)
        return taken

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        path, body = request.path.strip("/"), await request.read()
        with self._lock:
            behaviour: Behaviour = next(self._scripts.get(path, iter(())), "204")
            self.requests.append(Received(path, dict(request.headers), body, behaviour))
        match behaviour:
            case "hang":
                await asyncio.sleep(HANG_S)
            case "cut":
                answer = web.StreamResponse(headers={"content-length": "1000"})
                await answer.prepare(request)
                await answer.write(b"a part")
                assert request.transport is not None
                request.transport.abort()
                return answer
            case "429":
                return web.Response(status=429, headers={"retry-after": "1"})
            case _:
                return web.Response(status=int(behaviour), text="" if behaviour == "204" else "as the script says")
        return web.Response(status=204)

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/{path:.*}", self._receive)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self._base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Run a receiver on a free port in a thread."""
    receiving, ready, stop = Receiver(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(receiving._serve(ready, stop)))
    thread.start()
    try:
        assert ready.wait(10)
        yield receiving
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()

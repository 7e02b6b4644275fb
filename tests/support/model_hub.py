"""A model hub with scripted faults: ranges, broken transfers, refusals and redirects to another host."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

COMMIT = "c0ffee" * 6 + "c0ff"


@dataclass
class Hub:
    """A hub of `files` by path, without the leading slash. A path's script lists the statuses of its first answers;
    0 breaks off half way."""

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    scripts: dict[str, list[int]] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)
    """Redirects to another host, by path."""
    takes_ranges: bool = True
    states_length: bool = True
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    """While this is unset, every body stops half way."""
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.lstrip("/")
        self.requests.append((path, {name.lower(): value for name, value in request.headers.items()}))
        script = self.scripts.get(path) or []
        status = script.pop(0) if script else 200
        if status >= 300:
            return web.Response(status=status)
        if path in self.elsewhere:
            return web.Response(
                status=302,
                headers={"location": self.elsewhere[path], "x-repo-commit": COMMIT, "content-encoding": "gzip"},
                body=b"what cannot be unpacked",
            )
        if path not in self.files:
            return web.Response(status=404)
        return await self._body(request, path, breaks=status == 0)

    async def _body(self, request: web.Request, path: str, *, breaks: bool) -> web.StreamResponse:
        content, etag = self.files[path], self.etags.get(path, f'"{path}"')
        begin = self._begin(request, etag)
        if begin >= len(content):
            return web.Response(status=416)
        answer = web.StreamResponse(status=206 if begin else 200, headers={"etag": etag, "x-repo-commit": COMMIT})
        if self.states_length:
            answer.content_length = len(content) - begin
        if begin:
            answer.headers["content-range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        await answer.prepare(request)
        middle = begin + (len(content) - begin) // 2
        await answer.write(content[begin:middle])
        if breaks:
            assert request.transport is not None
            request.transport.close()
            return answer
        while not self.hold.is_set():  # noqa: ASYNC110  another thread sets it
            await asyncio.sleep(0.01)
        await answer.write(content[middle:])
        return answer

    def _begin(self, request: web.Request, etag: str) -> int:
        wanted = request.headers.get("range", "")
        if not wanted or not self.takes_ranges or request.headers.get("if-range") != etag:
            return 0
        return int(wanted.removeprefix("bytes=").rstrip("-"))

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()


@contextmanager
def model_hub() -> Iterator[Hub]:
    """Serve a hub on a free port in a thread."""
    hub, ready, stop = Hub(), threading.Event(), asyncio.Event()
    hub.hold.set()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(hub._serve(ready, stop)))
    thread.start()
    try:
        assert ready.wait(10)
        yield hub
    finally:
        hub.hold.set()
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()

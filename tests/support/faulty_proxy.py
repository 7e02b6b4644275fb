"""A proxy in front of an S3 server that causes network faults, scripted or at random."""

import asyncio
import io
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Literal, get_args

import aiohttp
from aiohttp import web
from yarl import URL

Weather = Literal["error_500", "slow_down", "reset", "drop_answer", "error_500_after_effect", "cut_body", "slow_body"]
"""The faults that may occur at random for any request."""
Answered = Literal["error_500", "slow_down", "wrong_region", "foreign_404", "empty_404", "no_such_upload"]
"""Faults in which the proxy answers in the server's place."""
Fault = Weather | Answered | Literal["hang_after_effect", "hang_in_body", "refuse_entry", "fail_entry"]
WEATHER: tuple[Weather, ...] = get_args(Weather)

_ENTRY_CODES = {"refuse_entry": "AccessDenied", "fail_entry": "InternalError"}
_SLOW_PIECES = 8
_SLOW_PIECE_S = 0.1


@dataclass(slots=True)
class FaultyProxy:
    """A proxy with faults.

    `faults` are used one per request whose method is in `methods`; other requests pass. Any other request meets a
    random fault with `probability`, and `met` counts these. Of `ignored_headers` the proxy acts as a server that does
    not know them, and `unknown` queries get status 501. `seen` lists the method and path, query included, of each
    request. Requests whose path has `held` in it are never answered. `ahead` is added to the date of each answer.
    """

    upstream: str
    methods: frozenset[str] = frozenset({"PUT"})
    faults: list[Fault] = field(default_factory=list)
    probability: float = 0.0
    chance: random.Random = field(default_factory=random.Random)
    met: Counter[Weather] = field(default_factory=Counter)
    ignored_headers: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    held: str | None = None
    ahead: timedelta = timedelta()
    passed: int = 0
    seen: list[tuple[str, str]] = field(default_factory=list)
    hangs_after: int | None = None
    recovered: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
    _session: aiohttp.ClientSession | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path))
        if self.hangs_after is not None and len(self.seen) > self.hangs_after:
            await self.recovered.wait()
        if self.unknown & request.query.keys():
            return _s3_error(501, "NotImplemented")
        if self.held is not None and self.held in request.raw_path:
            await asyncio.Event().wait()  # until the client, or this proxy, ends
        fault = self._next_fault(request)
        body = await request.read()
        match fault:
            case "error_500" | "slow_down" | "wrong_region" | "foreign_404" | "empty_404" | "no_such_upload":
                return _answer(fault)
            case "reset":
                return _reset(request)
            case "refuse_entry" | "fail_entry":
                key = body.partition(b"<Key>")[2].partition(b"</Key>")[0].decode()
                error = f"<Error><Key>{key}</Key><Code>{_ENTRY_CODES[fault]}</Code><Message>scripted</Message></Error>"
                return web.Response(text=f"<DeleteResult>{error}</DeleteResult>", content_type="application/xml")
        answer = await self._forward(request, body)
        if answer.status == 412 and self.ignored_headers & {name.lower() for name in request.headers}:
            answer = web.Response(headers={"ETag": '"ignored"'})
        return await _spoilt(request, answer, fault)

    def _next_fault(self, request: web.Request) -> Fault | None:
        if self.faults and request.method in self.methods:
            return self.faults.pop(0)
        if self.chance.random() >= self.probability:
            return None
        fault = self.chance.choice(WEATHER)
        self.met[fault] += 1
        return fault

    def hang(self, after: int = 0) -> None:
        """Answer the given number of requests, and then none until `recover`."""
        self.recovered = asyncio.Event()
        self.hangs_after = len(self.seen) + after

    def recover(self) -> None:
        """Pass on the waiting requests, however late."""
        self.hangs_after = None
        self.recovered.set()

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        """Forward the request with the client's own headers, Host included, because the signature covers them."""
        assert self._session is not None
        self.passed += 1
        url = self.upstream + request.raw_path
        async with self._session.request(
            request.method,
            URL(url, encoded=True),
            headers=request.headers,
            data=io.BytesIO(body) if body else body,  # aiohttp warns of large plain bytes
            skip_auto_headers=("Accept", "User-Agent"),
        ) as answer:
            dropped = {"transfer-encoding"} if request.method == "HEAD" else {"transfer-encoding", "content-length"}
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in dropped}
            if self.ahead:
                kept["Date"] = format_datetime(datetime.now(UTC) + self.ahead, usegmt=True)
            return web.Response(status=answer.status, headers=kept, body=await answer.read())


async def _spoilt(request: web.Request, answer: web.Response, fault: Fault | None) -> web.StreamResponse:
    """Return the damaged answer to a request that took effect."""
    match fault:
        case "hang_after_effect":
            await asyncio.sleep(60)
        case "drop_answer":
            return _reset(request)
        case "error_500_after_effect":
            return web.Response(status=500)
        case "cut_body" | "slow_body":
            return await _piecemeal(request, answer, cut=fault == "cut_body")
        case "hang_in_body":
            begun = web.StreamResponse(status=answer.status, headers=answer.headers)
            begun.content_length = answer.content_length
            await begun.prepare(request)
            await asyncio.sleep(60)
    return answer


async def _piecemeal(request: web.Request, answer: web.Response, *, cut: bool) -> web.StreamResponse:
    """Send the body in small pieces; with `cut`, break the connection in the middle, or at once without a body."""
    body = answer.body
    if not isinstance(body, bytes) or not body:
        await asyncio.sleep(_SLOW_PIECE_S)
        return _reset(request) if cut else answer
    slow = web.StreamResponse(status=answer.status, headers=answer.headers)
    slow.content_length = len(body)
    await slow.prepare(request)
    size = -(-len(body) // _SLOW_PIECES)
    for start in range(0, len(body) // 2 if cut else len(body), size):
        await asyncio.sleep(_SLOW_PIECE_S)
        await slow.write(body[start : start + size])
    return _reset(request) if cut else slow


def _reset(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def _answer(fault: Answered) -> web.Response:
    match fault:
        case "error_500":
            return web.Response(status=500)
        case "slow_down":
            return _s3_error(503, "SlowDown")
        case "wrong_region":  # S3 names the other endpoint in the body, not in a Location
            return _s3_error(301, "PermanentRedirect")
        case "foreign_404":  # of a proxy that has no backend for the moment
            return web.Response(status=404, text="<html>default backend - 404</html>", content_type="text/html")
        case "empty_404":
            return web.Response(status=404)
        case "no_such_upload":
            return _s3_error(404, "NoSuchUpload")


def _s3_error(status: int, code: str) -> web.Response:
    return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>", content_type="application/xml")


@asynccontextmanager
async def faulty_proxy(upstream: str) -> AsyncIterator[FaultyProxy]:
    proxy = FaultyProxy(upstream)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        proxy._session = session
        try:
            yield proxy
        finally:
            await runner.cleanup()

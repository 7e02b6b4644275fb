"""A proxy before an S3 server that misbehaves on demand: the faults that a network really has."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
from aiohttp import web
from yarl import URL

Fault = Literal["drop_answer", "error_500", "error_500_after_effect", "hang_after_effect", "refuse_entry", "fail_entry"]
_ENTRY_CODES = {"refuse_entry": "AccessDenied", "fail_entry": "InternalError"}


@dataclass(slots=True)
class FaultyProxy:
    """`faults` are used up one a request whose method is in `methods`; other requests pass.

    `ignored_headers` are read by nobody: the proxy answers as a server that does not know them.
    """

    upstream: str
    methods: frozenset[str] = frozenset({"PUT"})
    faults: list[Fault] = field(default_factory=list)
    ignored_headers: frozenset[str] = frozenset()
    passed: int = 0
    url: str = ""
    _session: aiohttp.ClientSession | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        fault = self.faults.pop(0) if self.faults and request.method in self.methods else None
        body = await request.read()
        if fault == "error_500":
            return web.Response(status=500)
        if fault in _ENTRY_CODES:
            error = f"<Error><Key>one</Key><Code>{_ENTRY_CODES[fault]}</Code></Error>"
            return web.Response(text=f"<DeleteResult>{error}</DeleteResult>", content_type="application/xml")
        answer = await self._forward(request, body)
        if fault == "hang_after_effect":
            await asyncio.sleep(60)
        if answer.status == 412 and self.ignored_headers & {name.lower() for name in request.headers}:
            return web.Response(headers={"ETag": '"ignored"'})
        if fault == "drop_answer":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault == "error_500_after_effect":
            return web.Response(status=500)
        return answer

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        """With the client's own headers, Host included: the signature covers them."""
        assert self._session is not None
        self.passed += 1
        url = self.upstream + request.raw_path
        async with self._session.request(
            request.method,
            URL(url, encoded=True),
            headers=request.headers,
            data=body,
            skip_auto_headers=("Accept", "User-Agent"),
        ) as answer:
            dropped = {"transfer-encoding"} if request.method == "HEAD" else {"transfer-encoding", "content-length"}
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in dropped}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())


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

"""Files behind a request's URLs: limits on their number, size, time and concurrency, and their quota."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from app.config import ApiConfig
from infra.settings import Settings
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.concurrency import gather
from storage.errors import FetchFailed
from storage.intake.fetch import Meter, RemoteFetcher
from storage.intake.ssrf import Destinations
from storage.intake.ssrf_transport import PinnedTransport
from tests.support.api_server import BLUE, KEY, PNG, Api, running_api

pytestmark = pytest.mark.anyio

MIB = 1024**2


@dataclass
class Site:
    """A server of pictures: `/large/N` announces N bytes, `/chunked/N` sends them unannounced, and `/held` waits."""

    url: str = ""
    requested: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    held: int = 0
    most_held: int = 0
    holding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requested.append(request.path)
        match request.path.split("/")[1:]:
            case ["large" | "chunked" as way, size]:
                return await self._send(request, int(size), announced=way == "large")
            case ["text"]:
                return web.Response(text="hello" * MIB)
            case ["held", *_]:
                await self._hold()
        return web.Response(body=PNG)

    async def _send(self, request: web.Request, size: int, *, announced: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": str(size)} if announced else {})
        await response.prepare(request)
        left, chunk = size, PNG
        while left:
            chunk = chunk[:left]
            await response.write(chunk)
            self.sent_bytes += len(chunk)
            left, chunk = left - len(chunk), bytes(64 * 1024)
        return response

    async def _hold(self) -> None:
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        self.holding.release()
        try:
            await self.go.wait()
        finally:
            self.held -= 1


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site, app = Site(), web.Application()
    app.router.add_get("/{path:.*}", site.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield site
    site.go.set()
    await runner.cleanup()


@asynccontextmanager
async def fetching_api(
    site: Site, clock: ManualClock, settings: Settings | None = None, **limits: Any
) -> AsyncIterator[Api]:
    port = int(site.url.rsplit(":", 1)[1])
    config = ApiConfig(api_key=KEY, **limits)
    destinations = Destinations(ports=frozenset({port}), is_allowed=lambda address: address.is_loopback)
    fetcher = RemoteFetcher(transport=lambda: PinnedTransport(destinations))
    async with running_api(MemoryObjectStore(clock), clock, config, settings=settings, fetcher=fetcher) as api:
        yield api


def document(site: Site, *paths: str) -> dict[str, Any]:
    return {
        "workflow": BLUE,
        "media": [{"name": f"{n}.png", "url": f"{site.url}/{path}"} for n, path in enumerate(paths)],
    }


async def submit(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, str | None]:
    answer = await client.post("/v1/jobs", json=body)
    return answer.status_code, answer.json().get("type")


async def test_the_urls_of_a_request_are_limited(site: Site, clock: ManualClock) -> None:
    """The URLs of media, of inputs and of all jobs of a batch are limited, and nothing is fetched above the limit."""
    inputs = [{"node": "2", "field": "filename_prefix", "value": f"{site.url}/x", "type": "image_url"}]
    job = document(site, "a", "b") | {"inputs": inputs}
    async with fetching_api(site, clock, max_urls=2, max_batch_urls=4) as api:
        assert await submit(api.client, job) == (422, "/problems/too-many-urls")
        batches = [
            {"jobs": [job, job]},
            {"workflow": BLUE, "input_sets": [inputs] * 5},
            document(site, "a", "b") | {"input_sets": [inputs] * 3},
        ]
        for batch in batches:
            refused = await api.client.post("/v1/batches", json=batch)
            assert refused.json()["type"] == "/problems/too-many-urls"
        assert site.requested == []
        assert await submit(api.client, document(site, "a", "b")) == (202, None)
        assert site.requested == ["/a", "/b"]


async def test_bytes_are_charged_before_they_are_fetched(site: Site, clock: ManualClock) -> None:
    """The first file above the quota is not read, no later file is requested, and nothing is stored."""
    async with fetching_api(site, clock, max_upload_bytes_a_day=MIB) as api:
        before = await api.keys()
        refused = await submit(api.client, document(site, *[f"large/{40 * MIB}"] * 10))
        assert refused == (429, "/problems/too-many-bytes")
        assert len(site.requested) == 1
        assert await api.keys() == before
        assert await submit(api.client, document(site, "a")) == (202, None)


async def test_unannounced_bytes_are_charged_as_they_arrive(site: Site, clock: ManualClock) -> None:
    """A fetch without an announced size ends when the quota is used up."""
    async with fetching_api(site, clock, max_upload_bytes_a_day=2 * MIB) as api:
        refused = await submit(api.client, document(site, f"chunked/{40 * MIB}"))
        assert refused == (429, "/problems/too-many-bytes")
        assert site.sent_bytes < 40 * MIB


@pytest.mark.parametrize("path", ["large", "chunked"])
async def test_exactly_the_fetched_bytes_are_charged(site: Site, clock: ManualClock, path: str) -> None:
    """A quota of two files is used up by two files, with an announced size or without."""
    async with fetching_api(site, clock, max_upload_bytes_a_day=2 * len(PNG)) as api:
        for _ in range(2):
            assert await submit(api.client, document(site, f"{path}/{len(PNG)}")) == (202, None)
        assert await submit(api.client, document(site, f"{path}/{len(PNG)}")) == (429, "/problems/too-many-bytes")


async def test_a_refused_request_is_charged_for_fetched_bytes(site: Site, clock: ManualClock) -> None:
    """Bytes that a refused request fetched count, since a tenant could otherwise fetch without limit."""
    async with fetching_api(site, clock, max_upload_bytes_a_day=2 * len(PNG)) as api:
        for _ in range(2):
            body = document(site, "a", "text")
            assert await submit(api.client, body) in [
                (422, "/problems/fetch-refused"),
                (429, "/problems/too-many-bytes"),
            ]
        assert await submit(api.client, document(site, "a")) == (429, "/problems/too-many-bytes")


async def test_the_total_size_of_a_requests_files_is_limited(site: Site, clock: ManualClock) -> None:
    """All fetched files of a request together are limited to the maximum size of its body."""
    async with fetching_api(site, clock, max_request_bytes=1000) as api:
        body = document(site, f"large/{len(PNG)}", f"large/{1000 - len(PNG) + 1}")
        assert await submit(api.client, body) == (422, "/problems/fetch-refused")
        assert await submit(api.client, document(site, f"large/{len(PNG)}", "a")) == (202, None)


async def test_the_fetches_of_a_request_end_in_time(site: Site, clock: ManualClock) -> None:
    """All fetches of a request share one time limit."""
    async with fetching_api(site, clock, max_fetch_s=0.2) as api:
        assert await submit(api.client, document(site, "held/1", "held/2")) == (422, "/problems/fetch-failed")
        assert site.requested == ["/held/1"]


async def test_fetching_requests_of_a_tenant_are_limited(site: Site, clock: ManualClock) -> None:
    """Further fetching requests of a tenant wait, while those of another tenant proceed."""
    settings = Settings(bucket="tests", fetching_requests=3, fetching_requests_of_tenant=2)
    async with fetching_api(site, clock, settings) as api, await api.client_of("other") as other:
        sending = [asyncio.create_task(submit(api.client, document(site, "held"))) for _ in range(5)]
        for _ in range(2):
            await site.holding.acquire()
        assert await submit(other, document(site, "a")) == (202, None)
        site.go.set()
        assert await gather(*sending) == [(202, None)] * 5
        assert site.most_held == 2


async def test_concurrent_fetches_from_a_host_are_limited(site: Site, clock: ManualClock) -> None:
    """Concurrent fetches from one host are limited across all tenants."""
    settings = Settings(bucket="tests", fetches_of_host=1)
    async with fetching_api(site, clock, settings) as api, await api.client_of("other") as other:
        sending = [asyncio.create_task(submit(client, document(site, "held"))) for client in (api.client, other) * 2]
        await site.holding.acquire()
        await asyncio.sleep(0.1)  # time in which a second fetch could begin
        site.go.set()
        assert await gather(*sending) == [(202, None)] * 4
        assert site.most_held == 1


async def test_one_tenant_does_not_take_all_places_of_a_host(site: Site, clock: ManualClock) -> None:
    """With the default settings, another tenant fetches from a host that all requests of one tenant wait for."""
    async with fetching_api(site, clock) as api, await api.client_of("other") as other:
        busy = [asyncio.create_task(submit(api.client, document(site, "held"))) for _ in range(6)]
        for _ in range(Settings(bucket="tests").fetching_requests_of_tenant):
            await site.holding.acquire()
        assert await submit(other, document(site, "a")) == (202, None)
        site.go.set()
        assert await gather(*busy) == [(202, None)] * 6


@pytest.mark.parametrize(
    "fields",
    ["content-length: 9999999999", "transfer-encoding: chunked\r\ncontent-encoding: gzip"],
    ids=["endless", "compressed"],
)
async def test_the_body_of_a_redirect_is_not_read(fields: str, tmp_path: Path) -> None:
    """A redirect with an endless or compressed body is followed without reading much of the body."""
    sent = 0

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with suppress(ConnectionError, asyncio.CancelledError):
            if b"/x.png" in await reader.readline():
                writer.write(f"HTTP/1.1 302 Found\r\nlocation: /picture\r\n{fields}\r\n\r\n".encode())
                while sent < 64 * MIB:
                    writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                    sent += 0x10000
                    await writer.drain()
            else:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(PNG) + PNG)
        writer.close()

    async with served(redirect) as (base, fetcher):
        fetched = await fetcher.fetch(f"{base}/x.png", tmp_path / "x", meter=Meter(_always), max_bytes=MIB)
    assert fetched == len(PNG)
    assert sent < 64 * MIB


@asynccontextmanager
async def served(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[str, RemoteFetcher]]:
    """The base URL of a server, and a fetcher that may reach only this server."""
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    destinations = Destinations(ports=frozenset({port}), is_allowed=lambda address: address.is_loopback)
    try:
        yield f"http://127.0.0.1:{port}", RemoteFetcher(transport=lambda: PinnedTransport(destinations))
    finally:
        server.close()


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_file_of_line_feeds_is_fetched(is_chunked: bool, tmp_path: Path) -> None:
    """A file that consists mostly of line feeds, such as a picture of the colour #0a0a0a, is fetched as data."""
    body = PNG + b"\n" * 500_000

    async def picture(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        if is_chunked:
            writer.write(b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
        else:
            writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with served(picture) as (base, fetcher):
        fetched = await fetcher.fetch(f"{base}/x.png", tmp_path / "x", meter=Meter(_always), max_bytes=MIB)
    assert (fetched, (tmp_path / "x").read_bytes()) == (len(body), body)


CHUNKS_OF_ONE_BYTE = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"10\r\n" + PNG[:16] + b"\r\n"


@pytest.mark.parametrize(
    ("begin", "endless", "message"),
    [
        (CHUNKS_OF_ONE_BYTE, b"1\r\n\0\r\n", "more framing than data"),
        (CHUNKS_OF_ONE_BYTE, b"1;" + b"e" * 40 + b"\r\n\0\r\n", "more framing than data"),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n", "too many interim answers"),
        (b"", b"HTTP/1.1 103 Early Hints\r\na: " + b"x" * 40 + b"\r\n\r\n", "too many interim answers"),
    ],
    ids=["chunks of one byte", "chunks with extensions", "interim responses", "interim responses with fields"],
)
async def test_a_host_that_sends_framing_instead_of_data_is_cut_off(
    begin: bytes, endless: bytes, message: str, tmp_path: Path
) -> None:
    """The fetch fails before much of the framing has been read."""
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(begin)
        with suppress(ConnectionError, asyncio.CancelledError):
            while sent < 64 * MIB:
                writer.write(endless * 4_096)
                sent += 4_096 * len(endless)
                await writer.drain()
        writer.close()

    async with served(flood) as (base, fetcher):
        with pytest.raises(FetchFailed, match=message):
            await fetcher.fetch(f"{base}/x.png", tmp_path / "x", meter=Meter(_always), max_bytes=MIB)
    assert sent < 64 * MIB


async def _always(_: int) -> bool:
    return True

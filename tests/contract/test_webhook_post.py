"""One POST to a receiver over a real connection: its content, the evaluation of the response, and its time limits."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from storage.access.key_store import ApiKeyStore
from storage.bucket.memory import MemoryObjectStore
from storage.clock import SystemClock
from storage.intake.ssrf_transport import MAX_ERROR, RESOLVERS, RESOLVERS_OF_TENANT
from storage.webhooks.receivers import Loopback, ReceiverRules
from workers.webhooks.post import EXCERPT_BYTES, Answer, RemotePoster

pytestmark = pytest.mark.anyio

HEADERS = {"content-type": "application/cloudevents+json", "webhook-id": "evt_1", "webhook-signature": "v1,a v1,b"}
BODY = '{"id": "evt_1", "data": "ü"}'.encode()


async def take(request: web.Request) -> web.Response:
    assert (await request.read()) == BODY
    assert {name: request.headers[name] for name in HEADERS} == HEADERS
    return web.Response(status=204)


async def long(_: web.Request) -> web.Response:
    return web.Response(status=500, text="x" * (EXCERPT_BYTES + 1))


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(status=200)
    await answer.prepare(request)
    while True:
        await answer.write(b"x" * 65536)


async def hang(_: web.Request) -> web.Response:
    await asyncio.sleep(3600)
    raise AssertionError


async def trickle(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(status=200)
    await answer.prepare(request)
    while True:
        await answer.write(b"x")
        await asyncio.sleep(0.05)


async def cut(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"content-length": "100"})
    await answer.prepare(request)
    await answer.write(b"a part")
    assert request.transport is not None
    request.transport.abort()
    return answer


async def moved(_: web.Request) -> web.Response:
    return web.Response(status=307, headers={"location": "/take"})


async def respond(request: web.Request) -> web.Response:
    """Responds with the status and headers of the query."""
    return web.Response(status=int(request.query["status"]), headers=dict(request.query))


async def allow(request: web.Request) -> web.Response:
    origin = request.headers["webhook-request-origin"]
    return web.Response(headers={"webhook-allowed-origin": request.query.get("allowed", origin)})


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    app = web.Application()
    for handler in (take, long, endless, hang, trickle, cut, moved, respond):
        app.router.add_post(f"/{handler.__name__}", handler)
    app.router.add_route("OPTIONS", "/allow", allow)
    app.router.add_route("OPTIONS", "/endless", endless)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def receiver() -> AsyncIterator[str]:
    async with serving() as url:
        yield url


def local_poster(timeout_s: float = 10.0, *, loopback: Loopback = "true") -> RemotePoster:
    clock = SystemClock()
    rules = ReceiverRules(ApiKeyStore(MemoryObjectStore(clock), clock), loopback=loopback)
    return RemotePoster(rules, timeout_s=timeout_s)


async def post(url: str, timeout_s: float = 10.0) -> Answer:
    return await local_poster(timeout_s).post("acme", url, HEADERS, BODY)


async def test_signed_headers_and_body_arrive(receiver: str) -> None:
    """The signed headers and body arrive unchanged."""
    answer = await post(f"{receiver}/take")
    assert (answer.status, answer.error, answer.excerpt) == (204, None, None)


@pytest.mark.parametrize(("path", "status"), [("long", 500), ("endless", 200)])
async def test_the_beginning_of_a_response_is_kept(receiver: str, path: str, status: int) -> None:
    """The first 4 KB of a response are kept, however long it is."""
    answer = await post(f"{receiver}/{path}")
    assert (answer.status, answer.excerpt) == (status, "x" * EXCERPT_BYTES)


@pytest.mark.parametrize("path", ["hang", "trickle"])
async def test_a_response_has_a_time_limit(receiver: str, path: str) -> None:
    """The time limit applies to the whole response and not to each byte."""
    answer = await post(f"{receiver}/{path}", timeout_s=0.3)
    assert (answer.status, answer.is_refused) == (None, False)
    assert answer.error == "no complete answer within 0.3 s"


async def test_a_truncated_response_is_an_error(receiver: str) -> None:
    """A truncated response is an error, even if its status was 200."""
    answer = await post(f"{receiver}/cut")
    assert answer.status is None
    assert answer.error is not None
    assert answer.error.startswith("no ")
    assert "Error" not in answer.error


async def test_an_error_contains_a_limited_part_of_a_response() -> None:
    """The error for a response that is not HTTP has a limited length."""

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 2x0 " + b"\x01" * 50_000 + b"\r\n\r\n")
        await reader.read()  # until the poster hangs up
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    try:
        answer = await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    finally:
        server.close()
    assert (answer.error or "").startswith("no usable answer: illegal status line")
    assert len(answer.error or "") <= MAX_ERROR


async def test_a_redirect_is_not_followed(receiver: str) -> None:
    """A redirect counts as the response and is not followed."""
    assert (await post(f"{receiver}/moved")).status == 307


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=429&retry-after=7", {"status": 429, "retry_after": "7"}),
        ("status=200&webhook-delivery=Disable", {"status": 200, "wants_no_more": True}),
        ("status=400&webhook-delivery=abort-message", {"status": 400, "aborts": True}),
        ("status=200&webhook-delivery=whatever", {"wants_no_more": False, "aborts": False}),
    ],
)
async def test_response_headers_control_the_delivery(receiver: str, query: str, expected: dict[str, object]) -> None:
    """Headers of a response set a retry delay, disable the endpoint or abort the message."""
    answer = await post(f"{receiver}/respond?{query}")
    assert {name: getattr(answer, name) for name in expected} == expected


async def test_a_failed_connection_is_no_response(receiver: str) -> None:
    """TLS to a plain port and a connection to a closed port give no status."""
    assert (await post(receiver.replace("http:", "https:") + "/take")).status is None
    async with serving() as gone:
        pass
    assert (await post(f"{gone}/take")).status is None


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/hook",
        "http://169.254.169.254/latest",
        "http://[fd00::1]/hook",
        "ftp://example.com/",
        "http://xn--localhost/",
        "x",
    ],
)
async def test_forbidden_destinations_are_refused_permanently(url: str) -> None:
    """Private addresses, other schemes and invalid URLs are refused without a retry."""
    answer = await post(url)
    assert (answer.status, answer.is_refused) == (None, True)


async def test_loopback_is_refused_unless_permitted(receiver: str) -> None:
    """A deployment that does not permit loopback refuses a receiver on this machine."""
    assert (await local_poster(loopback="false").post("acme", f"{receiver}/take", HEADERS, BODY)).is_refused


@pytest.fixture
def all_names_are_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolves every name to this machine."""

    def getaddrinfo(host: object, port: int, *args: Any, **options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("all_names_are_local")
@pytest.mark.parametrize("cookies", [1, 45])
async def test_deliveries_share_no_state(cookies: int) -> None:
    """Cookies of a receiver are sent to no other request, and no connection is reused."""
    seen: list[tuple[str, str | None, object]] = []

    async def hook(request: web.Request) -> web.Response:
        assert request.transport is not None
        seen.append((request.path, request.headers.get("cookie"), request.transport.get_extra_info("peername")))
        answer = web.Response(status=204)
        for number in range(cookies):
            answer.headers.add("set-cookie", f"c{number}={'x' * 1500}; Domain={request.query['domain']}; Path=/")
        return answer

    app = web.Application()
    app.router.add_route("*", "/{path}", hook)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port, poster = runner.addresses[0][1], local_poster()
    try:
        for host, path, domain in (
            ("a.hooks.test", "a", "hooks.test"),
            ("b.hooks.test", "b", "hooks.test"),
            ("a.hooks.test", "c", "a.hooks.test"),
            ("a.hooks.test", "d", "a.hooks.test"),
        ):
            await poster.handshake("acme", f"http://{host}:{port}/{path}?domain={domain}", "own.example")
            answer = await poster.post("globex", f"http://{host}:{port}/{path}?domain={domain}", HEADERS, BODY)
            assert answer.status == 204, answer
    finally:
        await runner.cleanup()
    assert len(seen) == 8
    assert {cookie for _, cookie, _ in seen} == {None}
    assert len({peer for _, _, peer in seen}) == len(seen)


async def test_a_receiver_agrees_in_the_handshake(receiver: str) -> None:
    """A receiver agrees by naming this origin or any, and the body of its response is not read."""
    poster = local_poster()
    assert await poster.handshake("acme", f"{receiver}/allow", "own.example") is None
    assert await poster.handshake("acme", f"{receiver}/allow?allowed=*", "own.example") is None
    for path in ("allow?allowed=other.example", "endless"):
        refusal = await poster.handshake("acme", f"{receiver}/{path}", "own.example")
        assert refusal is not None
        assert refusal.error == "the receiver does not allow own.example (it answered 200)"
        assert not refusal.is_refused
    refusal = await poster.handshake("acme", "http://10.0.0.1/", "own.example")
    assert refusal is not None
    assert refusal.is_refused


async def test_names_that_do_not_resolve_delay_no_other_tenant(receiver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant's slow name lookups take only some of the resolver threads."""
    known, gate = socket.getaddrinfo, threading.Event()

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> list[Any]:
        if str(host).startswith("slow"):
            gate.wait(60)
        return known("127.0.0.1" if str(host).startswith("slow") else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("storage.intake.ssrf_transport.DNS_TIMEOUT_S", 0.2)
    poster = RemotePoster(ReceiverRules(ApiKeyStore(MemoryObjectStore(SystemClock()), SystemClock()), loopback="true"))
    many = [poster.post("evil", f"http://slow{number}.test/", HEADERS, BODY) for number in range(RESOLVERS)]
    try:
        answers = await asyncio.gather(*many)
        assert {answer.status for answer in answers} == {None}
        assert (
            len([thread for thread in threading.enumerate() if thread.name.startswith("names")])
            <= RESOLVERS_OF_TENANT + 1
        )
        port = receiver.rsplit(":", 1)[1]
        other = await poster.post("acme", f"http://localhost:{port}/take", HEADERS, BODY)
        assert other.status == 204
    finally:
        gate.set()

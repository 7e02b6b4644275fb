"""One POST to a receiver over a real connection: what it sends, what it believes, and what it does not wait for."""

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
from storage.webhooks.post import EXCERPT_BYTES, Answer, RemotePoster
from storage.webhooks.receivers import Loopback, ReceiverRules

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


async def says(request: web.Request) -> web.Response:
    """What the query asks it to answer."""
    return web.Response(status=int(request.query["status"]), headers=dict(request.query))


async def allow(request: web.Request) -> web.Response:
    origin = request.headers["webhook-request-origin"]
    return web.Response(headers={"webhook-allowed-origin": request.query.get("allowed", origin)})


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    app = web.Application()
    for handler in (take, long, endless, hang, trickle, cut, moved, says):
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


async def test_what_was_signed_arrives(receiver: str) -> None:
    """Headers and body as they were given."""
    answer = await post(f"{receiver}/take")
    assert (answer.status, answer.error, answer.excerpt) == (204, None, None)


@pytest.mark.parametrize(("path", "status"), [("long", 500), ("endless", 200)])
async def test_the_beginning_of_an_answer_is_kept(receiver: str, path: str, status: int) -> None:
    """4 KB of it, however long it goes on."""
    answer = await post(f"{receiver}/{path}")
    assert (answer.status, answer.excerpt) == (status, "x" * EXCERPT_BYTES)


@pytest.mark.parametrize("path", ["hang", "trickle"])
async def test_patience_ends(receiver: str, path: str) -> None:
    """For the whole of an answer, not for each byte of it."""
    answer = await post(f"{receiver}/{path}", timeout_s=0.3)
    assert (answer.status, answer.is_refused) == (None, False)
    assert answer.error == "no complete answer within 0.3 s"


async def test_an_answer_that_breaks_off_is_none(receiver: str) -> None:
    """Also if its status was 200."""
    answer = await post(f"{receiver}/cut")
    assert answer.status is None
    assert answer.error is not None
    assert "Error" in answer.error


async def test_an_error_does_not_repeat_much_of_an_answer() -> None:
    """What is no HTTP may be long, and each attempt keeps its error."""

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 2x0 " + b"\x01" * 50_000 + b"\r\n\r\n")
        await reader.read()  # until the poster hangs up
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    try:
        answer = await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    finally:
        server.close()
    assert (answer.error or "").startswith("RemoteProtocolError: illegal status line")
    assert len(answer.error or "") <= MAX_ERROR


async def test_a_redirect_is_an_answer(receiver: str) -> None:
    """It is not followed."""
    assert (await post(f"{receiver}/moved")).status == 307


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("status=429&retry-after=7", {"status": 429, "retry_after": "7"}),
        ("status=200&webhook-delivery=Disable", {"status": 200, "wants_no_more": True}),
        ("status=400&webhook-delivery=abort-message", {"status": 400, "aborts": True}),
        ("status=200&webhook-delivery=whatever", {"wants_no_more": False, "aborts": False}),
    ],
)
async def test_wishes_of_the_receiver_are_heard(receiver: str, query: str, wanted: dict[str, object]) -> None:
    """In its headers."""
    answer = await post(f"{receiver}/says?{query}")
    assert {name: getattr(answer, name) for name in wanted} == wanted


async def test_tls_to_a_plain_port_is_no_answer(receiver: str) -> None:
    """Nor is a port at which nobody listens."""
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
async def test_where_we_do_not_go_no_repeat_helps(url: str) -> None:
    """Private addresses, other schemes, and what is no URL."""
    answer = await post(url)
    assert (answer.status, answer.is_refused) == (None, True)


async def test_loopback_is_private_unless_it_is_permitted(receiver: str) -> None:
    """As deployed."""
    assert (await local_poster(loopback="false").post("acme", f"{receiver}/take", HEADERS, BODY)).is_refused


@pytest.fixture
def everything_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name is one of this machine's."""

    def getaddrinfo(host: object, port: int, *args: Any, **options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("everything_is_here")
@pytest.mark.parametrize("cookies", [1, 45])
async def test_no_state_of_one_delivery_reaches_the_next(cookies: int) -> None:
    """A receiver's cookies, for its host or a parent domain, go to no other one, and no connection is used again."""
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
            await poster.handshake("acme", f"http://{host}:{port}/{path}?domain={domain}", "ours.example")
            answer = await poster.post("globex", f"http://{host}:{port}/{path}?domain={domain}", HEADERS, BODY)
            assert answer.status == 204, answer
    finally:
        await runner.cleanup()
    assert len(seen) == 8
    assert {cookie for _, cookie, _ in seen} == {None}
    assert len({peer for _, _, peer in seen}) == len(seen)


async def test_the_handshake(receiver: str) -> None:
    """A receiver agrees by naming our origin or any; its body is of no interest."""
    poster = local_poster()
    assert await poster.handshake("acme", f"{receiver}/allow", "ours.example") is None
    assert await poster.handshake("acme", f"{receiver}/allow?allowed=*", "ours.example") is None
    for path in ("allow?allowed=other.example", "endless"):
        refusal = await poster.handshake("acme", f"{receiver}/{path}", "ours.example")
        assert refusal is not None
        assert refusal.error == "the receiver does not allow ours.example (it answered 200)"
        assert not refusal.is_refused
    refusal = await poster.handshake("acme", "http://10.0.0.1/", "ours.example")
    assert refusal is not None
    assert refusal.is_refused


async def test_names_that_do_not_resolve_delay_no_other_tenant(receiver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant has few of the threads that resolve names, and keeps them for as long as the system's resolver does."""
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
        assert len([one for one in threading.enumerate() if one.name.startswith("names")]) <= RESOLVERS_OF_TENANT + 1
        port = receiver.rsplit(":", 1)[1]
        other = await poster.post("acme", f"http://localhost:{port}/take", HEADERS, BODY)
        assert other.status == 204
    finally:
        gate.set()

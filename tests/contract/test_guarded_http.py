"""Clients that hold connections without sending requests, against uvicorn as the local API runs it."""

import asyncio
import gc
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from infra.local.api_process import ACCEPTED_AT_ONCE, server_config
from infra.local.guarded_http import Guard, GuardedProtocol, HeadLimits
from infra.local.host import BACKLOG
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

HEAD = b"GET / HTTP/1.1\r\nhost: here\r\n"
COMPLETE = HEAD + b"\r\n"
TIME_LIMIT_S = 20
LARGE = 32 * 1024 * 1024
"""In bytes: more than the kernel buffers at both ends."""
SHORT = 60_000
"""In bytes: fewer than the transport buffers before it pauses the writer."""
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Connection]]


async def _answer_at_once(_: Request) -> Response:
    return PlainTextResponse("well")


async def _answer_late(_: Request) -> Response:
    await asyncio.sleep(60)
    return PlainTextResponse("late")


async def _answer_at_length(_: Request) -> Response:
    return PlainTextResponse("x" * LARGE)


async def _answer_shortly(_: Request) -> Response:
    return PlainTextResponse("x" * SHORT)


async def _answer_and_close(_: Request) -> Response:
    return PlainTextResponse("well", headers={"connection": "close"})


async def _wait_for_the_end(request: Request) -> Response:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    request.app.state.calls["ends"] += 1
    return PlainTextResponse("well")


async def _fail(_: Request) -> Response:
    raise RuntimeError("on purpose")


async def _headers_after_the_body(request: Request) -> Response:
    """The headers that the application sees once the body, trailers included, has arrived."""
    await request.body()
    return PlainTextResponse(f"{sorted(request.headers.keys())} well")


class _CountedProtocol(GuardedProtocol):
    """Counts in its guard what the parser calls Python for."""

    _guard: "_CountingGuard"

    def on_message_begin(self) -> None:
        self._guard.calls["heads"] += 1
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._guard.calls["fields"] += 1
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._guard.calls["pieces"] += 1
        self._guard.calls["body bytes"] += len(body)
        super().on_body(body)


@dataclass(frozen=True, slots=True)
class _CountingGuard(Guard):
    calls: Counter[str] = field(default_factory=Counter)

    def protocol(self, **of_uvicorn: Any) -> GuardedProtocol:
        return _CountedProtocol(self, **of_uvicorn)


@asynccontextmanager
async def _server(limits: HeadLimits) -> AsyncIterator[tuple[Connect, _CountingGuard]]:
    guard = _CountingGuard(limits)
    app = Starlette(
        routes=[
            Route("/", _answer_at_once, methods=["GET", "POST"]),
            Route("/closes", _answer_and_close, methods=["POST"]),
            Route("/fails", _fail),
            Route("/read", _headers_after_the_body, methods=["POST"]),
            Route("/large", _answer_at_length),
            Route("/short", _answer_shortly),
            Route("/waits", _wait_for_the_end),
            Route("/slow", _answer_late, methods=["GET", "POST"]),
        ]
    )
    app.state.calls = guard.calls
    serves: Any = guard.protocol
    server = uvicorn.Server(uvicorn.Config(app, http=serves, ws="none", log_config=None, timeout_graceful_shutdown=1))
    writers: list[asyncio.StreamWriter] = []
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:

        async def connect() -> Connection:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writers.append(writer)
            return reader, writer

        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield connect, guard
        for writer in writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        server.should_exit = True
        await serving


async def _rest_of(connection: Connection) -> bytes:
    """All bytes until the server closes the connection."""
    async with asyncio.timeout(TIME_LIMIT_S):
        return await connection[0].read()


async def _is_served(connection: Connection) -> bool:
    connection[1].write(COMPLETE)
    async with asyncio.timeout(TIME_LIMIT_S):
        return (await connection[0].readuntil(b"well")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"GET", HEAD])
async def test_a_late_head_is_refused(sent: bytes) -> None:
    """A connection whose request head does not arrive in time gets 408 and ends."""
    async with _server(HeadLimits(head_s=0.2)) as (connect, guard):
        slow = await connect()
        slow[1].write(sent)
        assert (await _rest_of(slow)).startswith(b"HTTP/1.1 408 ")
        assert not guard.waiting


async def test_a_late_second_head_is_refused() -> None:
    """A completed request does not extend the time limit of the next request head."""
    async with _server(HeadLimits(head_s=0.5)) as (connect, _):
        slow = await connect()
        assert await _is_served(slow)
        slow[1].write(HEAD)
        assert (await _rest_of(slow)).startswith(b"HTTP/1.1 408 ")


async def test_an_endless_head_is_refused() -> None:
    """A request head above the size limit gets 431, however fast it arrives."""
    async with _server(HeadLimits(max_head_bytes=10_000)) as (connect, _):
        endless = await connect()
        endless[1].write(HEAD)
        for number in range(11):
            endless[1].write(b"x-%d: " % number + b"x" * 1_000 + b"\r\n")
            await endless[1].drain()
        assert (await _rest_of(endless)).startswith(b"HTTP/1.1 431 ")


async def test_the_oldest_silent_connections_are_closed() -> None:
    """Requests are served although many connections send nothing, because the oldest of these are closed."""
    async with _server(HeadLimits(max_waiting=5, grace_s=0.1)) as (connect, guard):
        silent = [await connect() for _ in range(11)]
        await asyncio.sleep(0.15)
        silent.append(await connect())
        assert await _is_served(await connect())
        for ended in silent[:7]:
            with pytest.raises(ConnectionResetError):
                await _rest_of(ended)
        assert len(guard.waiting) <= 5
        assert await _is_served(silent[-1])


POSTED = b"POST / HTTP/1.1\r\nhost: here\r\n"
"""The application answers this without reading the body."""


@pytest.mark.parametrize("kind", [b"content-length: 10000000", b"transfer-encoding: chunked"])
async def test_a_long_rest_of_a_body_is_discarded(kind: bytes) -> None:
    """After a response, a client may send a long body to its end, but the connection takes no further request."""
    async with _server(HeadLimits(head_s=3600, max_unread_bytes=100_000)) as (connect, guard):
        reader, writer = await connect()
        writer.write(POSTED + kind + b"\r\n\r\n")
        async with asyncio.timeout(TIME_LIMIT_S):
            assert b"\r\nconnection: close\r\n" in await reader.readuntil(b"well")
            writer.write(b"64\r\n%b\r\n" % (b"x" * 100) * 10_000)
            assert await reader.read() == b""  # the end of the responses, not of the connection
            parsed = guard.calls["pieces"]
            writer.write(b"64\r\n%b\r\n" % (b"x" * 100) * 50_000)
            await writer.drain()
        assert guard.calls["pieces"] == parsed <= 1_000


async def test_a_short_rest_of_a_body_keeps_the_connection() -> None:
    """A client that was answered before its body ended may send the rest, and then its next request."""
    async with _server(HeadLimits()) as (connect, _):
        connection = reader, writer = await connect()
        writer.write(POSTED + b"content-length: 100000\r\n\r\n")
        async with asyncio.timeout(TIME_LIMIT_S):
            assert b"connection: " not in await reader.readuntil(b"well")
        writer.write(b"x" * 100_000)
        assert await _is_served(connection)


@pytest.mark.parametrize("kind", [b"content-length: %d" % LARGE, b"transfer-encoding: chunked"])
async def test_a_long_body_that_was_read_keeps_the_connection(kind: bytes) -> None:
    async with _server(HeadLimits()) as (connect, _):
        connection = reader, writer = await connect()
        writer.write(b"POST /read HTTP/1.1\r\nhost: here\r\n" + kind + b"\r\n\r\n")
        body = b"x" * LARGE
        writer.write(body if kind.startswith(b"content") else b"%x\r\n%b\r\n0\r\n\r\n" % (LARGE, body))
        async with asyncio.timeout(TIME_LIMIT_S):
            assert b"connection: " not in await reader.readuntil(b"well")
        assert await _is_served(connection)


async def test_a_response_that_closes_does_not_reset_a_client_that_sends() -> None:
    """A connection whose response says `connection: close` first takes the rest of its body."""
    async with _server(HeadLimits(head_s=3600)) as (connect, _):
        connection = reader, writer = await connect()
        writer.write(b"POST /closes HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n" % LARGE)
        async with asyncio.timeout(TIME_LIMIT_S):
            await reader.readuntil(b"well")
            writer.write(b"x" * LARGE)
            await writer.drain()
        assert await _rest_of(connection) == b""


async def test_a_malformed_rest_of_a_body_gets_no_second_response() -> None:
    """A body that turns out to be malformed after its response ends the connection without another response."""
    async with _server(HeadLimits()) as (connect, guard):
        connection = _, writer = await connect()
        writer.write(POSTED + b"transfer-encoding: chunked\r\n\r\n")
        await until(lambda: any(getattr(answered.cycle, "response_complete", False) for answered in guard.waiting))
        writer.write(b"no size\r\n" + b"x" * LARGE)
        async with asyncio.timeout(TIME_LIMIT_S):
            await writer.drain()  # the client can send its whole body, and then reads the answer
        answer = await _rest_of(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"well")


async def test_the_body_of_a_pipelined_request_is_read() -> None:
    """The response to one request does not limit the body of the next one."""
    async with _server(HeadLimits(max_unread_bytes=1_000)) as (connect, _):
        reader, writer = await connect()
        writer.write(COMPLETE + b"POST /read HTTP/1.1\r\nhost: here\r\ncontent-length: 10000\r\n\r\n")
        async with asyncio.timeout(TIME_LIMIT_S):
            await reader.readuntil(b"well")
            writer.write(b"x" * 10_000)
            await reader.readuntil(b"well")


async def test_a_body_that_continues_after_the_response_is_cut_off() -> None:
    """The connection ends although the client still sends its body after the response."""
    async with _server(HeadLimits(head_s=0.3)) as (connect, _):
        slow = await connect()
        slow[1].write(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 1000000\r\n\r\n")
        async with asyncio.timeout(TIME_LIMIT_S):
            assert (await slow[0].readuntil(b"well")).startswith(b"HTTP/1.1 200")
            await _drip_until_it_ends(slow[1])


async def _drip_until_it_ends(writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)


async def test_pipelined_requests_are_answered() -> None:
    """Pipelined requests are answered, including a request whose head arrives in pieces."""
    async with _server(HeadLimits(max_head_bytes=1_000, max_pipelined=2)) as (connect, guard):
        pipelining = await connect()
        pipelining[1].write(COMPLETE * 3 + b"GET / HT")
        await asyncio.sleep(0.05)
        pipelining[1].write(COMPLETE.removeprefix(b"GET / HT"))
        async with asyncio.timeout(TIME_LIMIT_S):
            for _ in range(4):
                await pipelining[0].readuntil(b"well")
        assert len(guard.waiting) == 1  # it waits for the next head
        pipelining[1].close()
        await until(lambda: not guard.waiting)


@pytest.mark.parametrize(
    "fields",
    [
        b"x: " + b"x" * 20_000 + b"\r\n",
        b"".join(b"x-%d: %b\r\n" % (number, b"x" * 900) for number in range(12)),
        b"".join(b"x%d:\r\n" % number for number in range(101)),
    ],
)
async def test_a_head_in_one_piece_is_limited(fields: bytes) -> None:
    """The exact size and the number of header fields are limited even if the head arrives at once."""
    async with _server(HeadLimits(max_head_bytes=10_000)) as (connect, _):
        large = await connect()
        large[1].write(HEAD + fields + b"\r\n")
        assert (await _rest_of(large)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(("length", "status"), [(-1, b"404"), (0, b"414")])
async def test_the_path_is_limited(length: int, status: bytes) -> None:
    """A long path is refused before it is decoded; a query is not part of it."""
    path = b"/" + b"%" * (HeadLimits().max_path_bytes + length)
    async with _server(HeadLimits()) as (connect, _):
        reader, writer = await connect()
        writer.write(b"GET " + path + b"?" + b"x" * 10_000 + b" HTTP/1.1\r\nhost: here\r\n\r\n")
        async with asyncio.timeout(TIME_LIMIT_S):
            assert status in await reader.readline()


CHUNKED = b"POST /read HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_trailer_fields_are_not_headers() -> None:
    """An `Authorization` field in the trailers does not reach the application."""
    async with _server(HeadLimits()) as (connect, _):
        sent = await connect()
        sent[1].write(CHUNKED)
        await sent[1].drain()
        sent[1].write(b"3\r\nabc\r\n0\r\nauthorization: Bearer x\r\nx-late: 1\r\n\r\n")
        async with asyncio.timeout(TIME_LIMIT_S):
            answer = await sent[0].readuntil(b"well")
        assert b"['host', 'transfer-encoding'] well" in answer


@pytest.mark.parametrize(
    "framing",
    [
        b"0\r\n" + b"x-trailer: " + b"x" * 1_000_000,
        b"0\r\n" + b"x: y\r\n" * 200_000,
        b"1;" + b"x" * 1_000_000,
        b"1;x=yyyyyyyyyyyyyyyyyyyyy\r\na\r\n" * 50_000,
        b"1\r\na\r\n" * 200_000,
    ],
)
async def test_a_body_of_mostly_framing_is_refused(framing: bytes) -> None:
    """A body whose trailers, extensions or tiny chunks exceed its data ends the connection before they are kept."""
    async with _server(HeadLimits(max_head_bytes=10_000)) as (connect, _):
        sent = await connect()
        sent[1].write(CHUNKED)
        with suppress(ConnectionError):
            for start in range(0, len(framing), 50_000):
                sent[1].write(framing[start : start + 50_000])
                await sent[1].drain()
                await asyncio.sleep(0)
        with suppress(ConnectionError):
            assert b" 200 " not in await _rest_of(sent)


@pytest.mark.parametrize("wrong", [b"1;" + b"x" * 20_000 + b"\r\na\r\n", b"no size\r\n"])
async def test_a_malformed_body_gets_a_problem(wrong: bytes) -> None:
    """A body that turns out to be malformed while it is read gets a problem response."""
    async with _server(HeadLimits(max_head_bytes=10_000)) as (connect, _):
        sent = await connect()
        sent[1].write(CHUNKED + b"1\r\na\r\n")
        await sent[1].drain()
        await asyncio.sleep(0.05)
        sent[1].write(wrong)
        answer = await _rest_of(sent)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"application/problem+json" in answer


async def test_a_long_malformed_body_gets_a_problem() -> None:
    """A client may send all of a body that is refused while the application has much of it left to read."""
    async with _server(HeadLimits()) as (connect, guard):
        connection = _, writer = await connect()
        writer.write(b"POST /slow HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (HIGH_WATER_LIMIT, b"x" * HIGH_WATER_LIMIT))
        await until(lambda: guard.calls["body bytes"] == HIGH_WATER_LIMIT)
        writer.write(b"1\r\nx\r\nno size\r\n" + b"x" * LARGE)  # uvicorn pauses at x and parses the rest of the read
        async with asyncio.timeout(TIME_LIMIT_S):
            await writer.drain()  # the client can send its whole body, and then reads the answer
        assert (await _rest_of(connection)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("head", [b"hello", b"GET http:// HTTP/1.1"], ids=["no HTTP", "no host in the URL"])
async def test_a_malformed_head_gets_a_problem(head: bytes) -> None:
    """Bytes that are not HTTP, or whose URL cannot be parsed, get a problem response."""
    async with _server(HeadLimits()) as (connect, _):
        sent = await connect()
        sent[1].write(head + b"\r\n\r\n")
        answer = await _rest_of(sent)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"application/problem+json" in answer


@pytest.mark.parametrize(("fields", "words"), [(100, b"well"), (101, b" 400 ")])
async def test_the_number_of_trailer_fields_is_limited(fields: int, words: bytes) -> None:
    """A body with more trailer fields than a head may have is refused, although they are few bytes."""
    async with _server(HeadLimits()) as (connect, _):
        sent = await connect()
        sent[1].write(CHUNKED)
        await sent[1].drain()
        sent[1].write(b"3\r\nabc\r\n0\r\n" + b"x: y\r\n" * fields + b"\r\n")
        async with asyncio.timeout(TIME_LIMIT_S):
            await sent[0].readuntil(words)


FEW = HeadLimits(max_small_chunks=1_000)


@pytest.mark.parametrize(
    ("sent", "kind", "at_most"),
    [
        (CHUNKED + b"5\r\n     \r\n" * 20_000, "pieces", 1_100),
        (CHUNKED + b"1;x\r\na\r\n" * 20_000, "pieces", 1_100),
        (CHUNKED + b"0\r\n" + b"x:\r\n" * 40_000, "fields", 103),
        (HEAD + b"x:\r\n" * 40_000, "fields", 102),
        (b"GET / HTTP/1.1\r\n\r\n" * 10_000, "heads", 30),
        ((CHUNKED + b"1\r\na\r\n0\r\n\r\n") * 2_000, "heads", 30),
    ],
    ids=["chunks", "extensions", "trailers", "fields", "requests", "bodies"],
)
async def test_the_parser_stops_within_a_read(sent: bytes, kind: str, at_most: int) -> None:
    """The rest of a read is not parsed once a limit is reached, however many elements it holds."""
    async with _server(FEW) as (connect, guard):
        connection = await connect()
        connection[1].write(sent)
        with suppress(ConnectionError):
            await _rest_of(connection)
        assert 0 < guard.calls[kind] <= at_most


async def test_too_many_small_chunks_get_a_problem() -> None:
    """A body in small chunks beyond the limit gets a problem that says so."""
    async with _server(FEW) as (connect, _):
        sent = await connect()
        sent[1].write(CHUNKED + b"5\r\n     \r\n" * 1_000_000)
        async with asyncio.timeout(TIME_LIMIT_S):
            await sent[1].drain()  # the client can send its whole body, and then reads the answer
        answer = await _rest_of(sent)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"small chunks" in answer


@pytest.mark.parametrize(("size", "count"), [(64, 20_000), (30, 7_000), (5, 4_096)])
async def test_a_body_in_small_chunks_is_read(size: int, count: int) -> None:
    """A body in chunks of 64 bytes may have any length, and one in smaller chunks may have many."""
    async with _server(HeadLimits()) as (connect, _):
        reader, writer = await connect()
        writer.write(CHUNKED + b"%x\r\n%b\r\n" % (size, b"x" * size) * count + b"0\r\n\r\n")
        async with asyncio.timeout(TIME_LIMIT_S):
            assert (await reader.readuntil(b"well")).startswith(b"HTTP/1.1 200")


async def test_small_chunks_that_arrive_one_by_one_are_read() -> None:
    """A client that sends each small chunk by itself may send any number of them."""
    async with _server(HeadLimits(max_small_chunks=4)) as (connect, guard):
        reader, writer = await connect()
        writer.write(CHUNKED)
        async with asyncio.timeout(TIME_LIMIT_S):
            for number in range(1, 11):
                writer.write(b"5\r\n     \r\n")
                await _parsed(guard, pieces=number)
            writer.write(b"0\r\n\r\n")
            assert (await reader.readuntil(b"well")).startswith(b"HTTP/1.1 200")


async def _parsed(guard: _CountingGuard, pieces: int) -> None:
    await until(lambda: guard.calls["pieces"] >= pieces)


async def test_chunks_of_normal_size_are_read() -> None:
    """A body in many chunks, with extensions and a trailer, is read."""
    async with _server(HeadLimits(max_head_bytes=2_000)) as (connect, _):
        sent = await connect()
        sent[1].write(CHUNKED + b"64;n=v\r\n%b\r\n" % (b"x" * 100) * 5_000 + b"0\r\nx: y\r\n\r\n")
        async with asyncio.timeout(TIME_LIMIT_S):
            assert (await sent[0].readuntil(b"well")).startswith(b"HTTP/1.1 200")


async def test_pipelined_requests_are_limited() -> None:
    """A connection with too many pipelined requests ends before all of them are answered or parsed."""
    async with _server(HeadLimits()) as (connect, guard):
        flooding = await connect()
        flooding[1].write(COMPLETE * 50)
        answered = (await _rest_of(flooding)).count(b"HTTP/1.1 200")
        assert answered < 50
        assert guard.calls["heads"] <= HeadLimits().max_pipelined + 2


async def test_a_client_that_goes_is_seen_behind_a_pipelined_request() -> None:
    """The application learns of the end of a client whose next request waits for its answer."""
    async with _server(HeadLimits()) as (connect, guard):
        _, writer = await connect()
        writer.write(b"GET /waits HTTP/1.1\r\nhost: here\r\n\r\n" + COMPLETE)
        await until(lambda: guard.calls["heads"] == 2)
        writer.close()
        await until(lambda: guard.calls["ends"] == 1)


async def test_requests_leave_no_reference_cycles() -> None:
    """What a connection and its requests held is freed with it, and not at some later garbage collection."""
    async with _server(HeadLimits()) as (connect, guard):
        connection = await connect()
        assert await _is_served(connection)
        connection[1].write(b"GET /waits HTTP/1.1\r\nhost: here\r\n\r\n" + COMPLETE)
        await until(lambda: guard.calls["heads"] == 3)
        gc.collect()
        gc.disable()
        try:
            connection[1].close()
            await until(lambda: guard.calls["ends"] == 1)
            await until(lambda: not any(isinstance(kept, RequestResponseCycle) for kept in gc.get_objects()))
        finally:
            gc.enable()


async def test_a_client_that_does_not_read_is_disconnected() -> None:
    """A client that does not read its response counts as waiting and is disconnected after the write timeout."""
    async with _server(HeadLimits(write_s=0.5)) as (connect, guard):
        unread = await connect()
        unread[1].write(b"GET /large HTTP/1.1\r\nhost: here\r\n\r\n")
        await until(lambda: any(connection.flow.write_paused for connection in guard.waiting))
        await until(lambda: not guard.waiting)
        with suppress(ConnectionError):
            assert len(await _rest_of(unread)) < LARGE


async def test_a_slow_reader_gets_a_large_response_in_full() -> None:
    """A client that reads slowly but steadily gets a large response in full, even if it takes longer than `write_s`."""
    async with _server(HeadLimits(write_s=0.3)) as (connect, _):
        reader, writer = await connect()
        writer.write(b"GET /large HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
        got = 0
        async with asyncio.timeout(3 * TIME_LIMIT_S):
            while piece := await reader.read(512 * 1024):
                got += len(piece)
                await asyncio.sleep(0.02)
        assert got > LARGE


async def test_the_oldest_clients_that_do_not_read_are_disconnected() -> None:
    """With too many clients that do not read, the oldest are disconnected before the write timeout."""
    async with _server(HeadLimits(max_waiting=2, grace_s=0.0, write_s=3600)) as (connect, guard):
        for _ in range(5):
            (await connect())[1].write(b"GET /large HTTP/1.1\r\nhost: here\r\n\r\n")
        await until(lambda: sum(connection.flow.write_paused for connection in guard.waiting) == 2)
        assert len(guard.waiting) == 2
        assert await _is_served(await connect())


@pytest.mark.parametrize("ending", [b"\r\n", b"connection: close\r\n\r\n"], ids=["kept alive", "closed"])
async def test_clients_that_do_not_read_short_responses_are_disconnected(ending: bytes) -> None:
    """An unread response in the buffers keeps its connection among the waiting, even after the response is complete."""
    limits = HeadLimits(max_waiting=2, grace_s=0.0, write_s=3600, send_buffer_bytes=4096)
    async with _server(limits) as (connect, guard):
        address = (await connect())[1].get_extra_info("peername")
        with ExitStack() as sockets:
            for _ in range(5):
                unread = sockets.enter_context(socket.socket())
                unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                unread.connect(address)
                unread.sendall(b"GET /short HTTP/1.1\r\nhost: here\r\n" + ending)
            await until(
                lambda: sum(bool(connection.transport.get_write_buffer_size()) for connection in guard.waiting) == 2
            )
            assert await _is_served(await connect())
            assert len(guard.waiting) == 2


@pytest.mark.parametrize(
    "limits",
    [HeadLimits(write_s=1.5), HeadLimits(max_waiting=1, grace_s=0.0, write_s=3600)],
    ids=["timed out", "too many"],
)
async def test_the_kernel_keeps_nothing_for_a_client_that_does_not_read(limits: HeadLimits) -> None:
    """The connection of a client that does not read is reset, so that the kernel drops the unread data."""
    async with _server(limits) as (connect, guard):
        address = (await connect())[1].get_extra_info("peername")
        with socket.socket() as unread:
            unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            unread.connect(address)
            unread.sendall(b"GET /large HTTP/1.1\r\nhost: here\r\n\r\n")
            await until(lambda: any(connection.flow.write_paused for connection in guard.waiting))
            await connect()
            await until(lambda: not any(connection.flow.write_paused for connection in guard.waiting))
            with pytest.raises(ConnectionResetError):
                await asyncio.to_thread(_read_to_the_end, unread)


def _read_to_the_end(connection: socket.socket) -> None:
    connection.settimeout(TIME_LIMIT_S)
    while connection.recv(65_536):
        pass


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", HEAD + b"connection: upgrade, close\r\nupgrade: websocket\r\n\r\n"]
)
async def test_a_bad_request_writes_no_warning(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A malformed request or an unsupported upgrade writes no warning, so that clients cannot fill the log."""
    caplog.set_level(logging.INFO)
    async with _server(HeadLimits()) as (connect, _):
        connection = await connect()
        connection[1].write(sent)
        assert (await _rest_of(connection)).startswith(b"HTTP/1.1 ")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_refused_body_gets_no_100_continue(caplog: pytest.LogCaptureFixture) -> None:
    """An application that reads a refused body learns that the client disconnected, and nothing more is written."""
    async with _server(HeadLimits()) as (connect, _):
        connection = await connect()
        connection[1].write(CHUNKED[:-2] + b"expect: 100-continue\r\n\r\nno size\r\n")
        answer = await _rest_of(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b" 100 " not in answer
    assert "write_eof" not in caplog.text


async def test_a_failing_application_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in the application is still logged by uvicorn."""
    async with _server(HeadLimits()) as (connect, _):
        connection = await connect()
        connection[1].write(b"GET /fails HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
        assert (await _rest_of(connection)).startswith(b"HTTP/1.1 500")
    assert "Exception in ASGI application" in caplog.text


async def test_another_request_does_not_hide_a_client_that_does_not_read() -> None:
    """A further request on the connection of a client that does not read leaves it among the waiting."""
    async with _server(HeadLimits(max_waiting=2, grace_s=0.0, write_s=3600)) as (connect, guard):
        unread = [await connect() for _ in range(2)]
        for _, writer in unread:
            writer.write(b"GET /large HTTP/1.1\r\nhost: here\r\n\r\n")
        await until(lambda: sum(connection.flow.write_paused for connection in guard.waiting) == 2)
        for _, writer in unread:
            writer.write(COMPLETE)
        assert await _is_served(await connect())
        await until(lambda: len(guard.waiting) <= 2)
        third = await connect()
        third[1].write(b"GET /large HTTP/1.1\r\nhost: here\r\n\r\n")
        with suppress(ConnectionError):
            assert len(await _rest_of(unread[0])) < LARGE


@pytest.mark.parametrize("first", ["GET", "DELETE"])
async def test_a_body_that_no_operation_reads_is_dropped(first: str) -> None:
    """The body of a request that ignores it is dropped, and the next request is answered."""
    async with _server(HeadLimits()) as (connect, _):
        reader, writer = await connect()
        size = 200_000
        writer.write(f"{first} / HTTP/1.1\r\nhost: here\r\ncontent-length: {size}\r\n\r\n".encode() + b"x" * size)
        writer.write(COMPLETE)
        async with asyncio.timeout(TIME_LIMIT_S):
            assert (await reader.readuntil(b"\r\n")).split()[1] in (b"200", b"405")
            assert await reader.readuntil(b"HTTP/1.1 200 OK")


async def test_a_long_body_that_no_operation_reads_is_refused() -> None:
    """A request that ignores its body gets 413 once the body is long, without waiting for its response."""
    async with _server(HeadLimits(max_unread_bytes=10_000)) as (connect, _):
        connection = await connect()
        connection[1].write(b"GET /slow HTTP/1.1\r\nhost: here\r\ncontent-length: 10001\r\n\r\n" + b"x" * 10_001)
        assert (await _rest_of(connection)).startswith(b"HTTP/1.1 413 ")


async def test_a_pipelined_request_with_a_body_ends_the_connection() -> None:
    """A request with a body that waits for the response to another request ends the connection."""
    async with _server(HeadLimits()) as (connect, _):
        _, writer = connection = await connect()
        writer.write(b"GET /slow HTTP/1.1\r\nhost: here\r\n\r\n")
        writer.write(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\n\r\nbody")
        assert await _rest_of(connection) == b""


async def test_a_request_that_reads_nothing_holds_little_of_its_body() -> None:
    """Of a body that nobody reads, one read beyond uvicorn's limit is held, however much arrives at once."""
    limits = HeadLimits()
    async with _server(limits) as (connect, guard):
        _, writer = await connect()
        writer.write(b"POST /slow HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n" % LARGE + b"x" * LARGE)
        await until(lambda: guard.calls["body bytes"] > HIGH_WATER_LIMIT)
        await asyncio.sleep(0.1)
        assert guard.calls["body bytes"] <= HIGH_WATER_LIMIT + limits.read_bytes
        writer.transport.abort()  # `close` would wait until the rest is read


class _CountingListener(socket.socket):
    """Counts the calls of `accept` in one iteration of the event loop."""

    calls = most = 0

    def accept(self) -> tuple[socket.socket, Any]:
        if not self.calls:
            asyncio.get_running_loop().call_soon(self._end_iteration)
        self.calls += 1
        self.most = max(self.most, self.calls)
        return super().accept()

    def _end_iteration(self) -> None:
        self.calls = 0


async def test_few_connections_are_accepted_at_once() -> None:
    """Hundreds of clients that connect together do not fill an iteration of the loop."""
    with _CountingListener() as listener, ExitStack() as clients:
        listener.bind(("127.0.0.1", 0))
        listener.listen(BACKLOG)
        for _ in range(BACKLOG):
            clients.enter_context(socket.create_connection(listener.getsockname()))
        server = uvicorn.Server(server_config(Starlette()))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: len(server.server_state.connections) == BACKLOG)
        server.should_exit = True
        await serving
    assert 1 < listener.most <= ACCEPTED_AT_ONCE

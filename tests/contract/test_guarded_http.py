"""Clients that hold connections instead of sending requests, against uvicorn as the local API runs it."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from infra.local.guarded_http import Guard, HeadLimits
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

HEAD = b"GET / HTTP/1.1\r\nhost: here\r\n"
WHOLE = HEAD + b"\r\n"
LIVENESS_S = 20
LARGE = 32 * 1024 * 1024
"""Bytes: more than the kernel keeps for both ends."""
SHORT = 60_000
"""Bytes: fewer than the transport's buffer takes before it asks for a pause."""
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


async def _fail(_: Request) -> Response:
    raise RuntimeError("on purpose")


async def _headers_after_the_body(request: Request) -> Response:
    """What the application sees of a request once its body, trailers included, has arrived."""
    await request.body()
    return PlainTextResponse(f"{sorted(request.headers.keys())} well")


@asynccontextmanager
async def _server(limits: HeadLimits) -> AsyncIterator[tuple[Connect, Guard]]:
    guard = Guard(limits)
    app = Starlette(
        routes=[
            Route("/", _answer_at_once, methods=["GET", "POST"]),
            Route("/fails", _fail),
            Route("/read", _headers_after_the_body, methods=["POST"]),
            Route("/large", _answer_at_length),
            Route("/short", _answer_shortly),
            Route("/slow", _answer_late),
        ]
    )
    serves: Any = guard.protocol
    server = uvicorn.Server(uvicorn.Config(app, http=serves, ws="none", log_config=None, timeout_graceful_shutdown=1))
    opened: list[asyncio.StreamWriter] = []
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:

        async def connect() -> Connection:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            opened.append(writer)
            return reader, writer

        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield connect, guard
        for writer in opened:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        server.should_exit = True
        await serving


async def _rest_of(connection: Connection) -> bytes:
    """What comes until the server closes."""
    async with asyncio.timeout(LIVENESS_S):
        return await connection[0].read()


async def _is_served(connection: Connection) -> bool:
    connection[1].write(WHOLE)
    async with asyncio.timeout(LIVENESS_S):
        return (await connection[0].readuntil(b"well")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"GET", HEAD])
async def test_a_head_that_does_not_come(sent: bytes) -> None:
    """The client is told, and the connection ends."""
    async with _server(HeadLimits(head_s=0.2)) as (connect, guard):
        slow = await connect()
        slow[1].write(sent)
        assert (await _rest_of(slow)).startswith(b"HTTP/1.1 408 ")
        assert not guard.waiting


async def test_a_second_head_that_does_not_come() -> None:
    """A good request does not buy the next one more time."""
    async with _server(HeadLimits(head_s=0.5)) as (connect, _):
        slow = await connect()
        assert await _is_served(slow)
        slow[1].write(HEAD)
        assert (await _rest_of(slow)).startswith(b"HTTP/1.1 408 ")


async def test_a_head_without_end() -> None:
    """It is refused when it is larger than the limit, however fast it comes."""
    async with _server(HeadLimits(max_head_bytes=10_000)) as (connect, _):
        endless = await connect()
        endless[1].write(HEAD)
        for number in range(11):
            endless[1].write(b"x-%d: " % number + b"x" * 1_000 + b"\r\n")
            await endless[1].drain()
        assert (await _rest_of(endless)).startswith(b"HTTP/1.1 431 ")


async def test_the_oldest_silent_connection_makes_room() -> None:
    """Who sends a request is served, however many say nothing."""
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


async def test_a_body_that_goes_on_after_the_answer() -> None:
    """The connection ends, though the client still sends."""
    async with _server(HeadLimits(head_s=0.3)) as (connect, _):
        slow = await connect()
        slow[1].write(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 1000000\r\n\r\n")
        async with asyncio.timeout(LIVENESS_S):
            assert (await slow[0].readuntil(b"well")).startswith(b"HTTP/1.1 200")
            await _drip_until_it_ends(slow[1])


async def _drip_until_it_ends(writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)


async def test_requests_one_behind_the_other() -> None:
    """Pipelined requests, and one whose head comes in pieces, are answered as ever."""
    async with _server(HeadLimits(max_head_bytes=1_000)) as (connect, guard):
        patient = await connect()
        patient[1].write(WHOLE * 3 + b"GET / HT")
        await asyncio.sleep(0.05)
        patient[1].write(WHOLE.removeprefix(b"GET / HT"))
        async with asyncio.timeout(LIVENESS_S):
            for _ in range(4):
                await patient[0].readuntil(b"well")
        assert len(guard.waiting) == 1  # for its next head
        patient[1].close()
        await until(lambda: not guard.waiting)


@pytest.mark.parametrize(
    "fields",
    [
        b"x: " + b"x" * 20_000 + b"\r\n",
        b"".join(b"x-%d: %b\r\n" % (number, b"x" * 900) for number in range(12)),
        b"".join(b"x%d:\r\n" % number for number in range(101)),
    ],
)
async def test_a_head_that_comes_in_one_piece(fields: bytes) -> None:
    """Its exact size and the number of its fields count, also where it is complete at once."""
    async with _server(HeadLimits(max_head_bytes=10_000)) as (connect, _):
        large = await connect()
        large[1].write(HEAD + fields + b"\r\n")
        assert (await _rest_of(large)).startswith(b"HTTP/1.1 431 ")


CHUNKED = b"POST /read HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_trailer_fields_are_no_headers() -> None:
    """An `Authorization` that comes after the body authorises nothing."""
    async with _server(HeadLimits()) as (connect, _):
        sent = await connect()
        sent[1].write(CHUNKED)
        await sent[1].drain()
        sent[1].write(b"3\r\nabc\r\n0\r\nauthorization: Bearer x\r\nx-late: 1\r\n\r\n")
        async with asyncio.timeout(LIVENESS_S):
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
async def test_a_body_of_much_framing(framing: bytes) -> None:
    """Trailers, extensions and tiny chunks cost more than their data: the connection ends before they are kept."""
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
async def test_a_body_that_is_refused_while_it_is_read(wrong: bytes) -> None:
    """The client gets a problem that says why."""
    async with _server(HeadLimits(max_head_bytes=10_000)) as (connect, _):
        sent = await connect()
        sent[1].write(CHUNKED + b"1\r\na\r\n")
        await sent[1].drain()
        await asyncio.sleep(0.05)
        sent[1].write(wrong)
        answer = await _rest_of(sent)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"application/problem+json" in answer


async def test_what_is_not_http() -> None:
    """It is refused by a problem too."""
    async with _server(HeadLimits()) as (connect, _):
        sent = await connect()
        sent[1].write(b"hello\r\n\r\n")
        answer = await _rest_of(sent)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"application/problem+json" in answer


async def test_chunks_of_a_usual_size() -> None:
    """A body in many chunks is read, extensions and a trailer included."""
    async with _server(HeadLimits(max_head_bytes=2_000)) as (connect, _):
        sent = await connect()
        sent[1].write(CHUNKED + b"64;n=v\r\n%b\r\n" % (b"x" * 100) * 5_000 + b"0\r\nx: y\r\n\r\n")
        async with asyncio.timeout(LIVENESS_S):
            assert (await sent[0].readuntil(b"well")).startswith(b"HTTP/1.1 200")


async def test_many_requests_on_one_connection() -> None:
    """A few may wait for the answers before theirs; with more the connection ends."""
    async with _server(HeadLimits(max_pipelined=4)) as (connect, _):
        eager = await connect()
        eager[1].write(WHOLE * 50)
        answered = (await _rest_of(eager)).count(b"HTTP/1.1 200")
        assert answered < 50


async def test_a_client_that_does_not_read() -> None:
    """It counts as one that waits, and its connection ends with what the kernels hold of its answer."""
    async with _server(HeadLimits(write_s=0.5)) as (connect, guard):
        deaf = await connect()
        deaf[1].write(b"GET /large HTTP/1.1\r\nhost: here\r\n\r\n")
        await until(lambda: any(connection.flow.write_paused for connection in guard.waiting))
        await until(lambda: not guard.waiting)
        with suppress(ConnectionError):
            assert len(await _rest_of(deaf)) < LARGE


async def test_a_slow_reader_gets_all_of_a_large_answer() -> None:
    """It takes much longer than `write_s`, a little at a time."""
    async with _server(HeadLimits(write_s=0.3)) as (connect, _):
        reader, writer = await connect()
        writer.write(b"GET /large HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
        got = 0
        async with asyncio.timeout(3 * LIVENESS_S):
            while piece := await reader.read(512 * 1024):
                got += len(piece)
                await asyncio.sleep(0.02)
        assert got > LARGE


async def test_clients_that_do_not_read_make_room() -> None:
    """The oldest of too many ends before its time."""
    async with _server(HeadLimits(max_waiting=2, grace_s=0.0, write_s=3600)) as (connect, guard):
        for _ in range(5):
            (await connect())[1].write(b"GET /large HTTP/1.1\r\nhost: here\r\n\r\n")
        await until(lambda: sum(connection.flow.write_paused for connection in guard.waiting) == 2)
        assert len(guard.waiting) == 2
        assert await _is_served(await connect())


@pytest.mark.parametrize("ending", [b"\r\n", b"connection: close\r\n\r\n"], ids=["kept alive", "closed"])
async def test_clients_that_do_not_read_short_answers_make_room(ending: bytes) -> None:
    """An answer that fits into the buffers is written at once; its connection waits all the same, also once closed."""
    limits = HeadLimits(max_waiting=2, grace_s=0.0, write_s=3600, send_buffer_bytes=4096)
    async with _server(limits) as (connect, guard):
        address = (await connect())[1].get_extra_info("peername")
        with ExitStack() as sockets:
            for _ in range(5):
                deaf = sockets.enter_context(socket.socket())
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                deaf.connect(address)
                deaf.sendall(b"GET /short HTTP/1.1\r\nhost: here\r\n" + ending)
            await until(lambda: sum(bool(one.transport.get_write_buffer_size()) for one in guard.waiting) == 2)
            assert await _is_served(await connect())
            assert len(guard.waiting) == 2


@pytest.mark.parametrize(
    "limits",
    [HeadLimits(write_s=0.5), HeadLimits(max_waiting=1, grace_s=0.0, write_s=3600)],
    ids=["took nothing", "made room"],
)
async def test_the_kernel_keeps_nothing_for_a_client_that_does_not_read(limits: HeadLimits) -> None:
    """Its connection is reset: closed only, what was sent would stay until the client reads it."""
    async with _server(limits) as (connect, guard):
        address = (await connect())[1].get_extra_info("peername")
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            deaf.connect(address)
            deaf.sendall(b"GET /large HTTP/1.1\r\nhost: here\r\n\r\n")
            await until(lambda: any(one.flow.write_paused for one in guard.waiting))
            await connect()
            await until(lambda: not any(one.flow.write_paused for one in guard.waiting))
            with pytest.raises(ConnectionResetError):
                await asyncio.to_thread(_read_to_the_end, deaf)


def _read_to_the_end(connection: socket.socket) -> None:
    connection.settimeout(LIVENESS_S)
    while connection.recv(65_536):
        pass


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", HEAD + b"connection: upgrade, close\r\nupgrade: websocket\r\n\r\n"]
)
async def test_a_request_that_uvicorn_would_warn_of(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A malformed request or an unsupported upgrade writes no warning: anyone could fill the log with them."""
    caplog.set_level(logging.INFO)
    async with _server(HeadLimits()) as (connect, _):
        connection = await connect()
        connection[1].write(sent)
        assert (await _rest_of(connection)).startswith(b"HTTP/1.1 ")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_failing_application_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What uvicorn says of our own faults stays in the log."""
    async with _server(HeadLimits()) as (connect, _):
        connection = await connect()
        connection[1].write(b"GET /fails HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
        assert (await _rest_of(connection)).startswith(b"HTTP/1.1 500")
    assert "Exception in ASGI application" in caplog.text


async def test_another_request_does_not_hide_a_client_that_does_not_read() -> None:
    """It still counts among those that wait, from when it began to."""
    async with _server(HeadLimits(max_waiting=2, grace_s=0.0, write_s=3600)) as (connect, guard):
        deaf = [await connect() for _ in range(2)]
        for _, writer in deaf:
            writer.write(b"GET /large HTTP/1.1\r\nhost: here\r\n\r\n")
        await until(lambda: sum(connection.flow.write_paused for connection in guard.waiting) == 2)
        for _, writer in deaf:
            writer.write(WHOLE)
        assert await _is_served(await connect())
        await until(lambda: len(guard.waiting) <= 2)
        third = await connect()
        third[1].write(b"GET /large HTTP/1.1\r\nhost: here\r\n\r\n")
        with suppress(ConnectionError):
            assert len(await _rest_of(deaf[0])) < LARGE


@pytest.mark.parametrize("first", ["GET", "DELETE"])
async def test_a_body_that_no_operation_reads(first: str) -> None:
    """It is dropped, not kept until the answer."""
    async with _server(HeadLimits()) as (connect, _):
        reader, writer = await connect()
        size = 1_000_000
        writer.write(f"{first} / HTTP/1.1\r\nhost: here\r\ncontent-length: {size}\r\n\r\n".encode() + b"x" * size)
        writer.write(WHOLE)
        async with asyncio.timeout(LIVENESS_S):
            assert (await reader.readuntil(b"\r\n")).split()[1] in (b"200", b"405")
            assert await reader.readuntil(b"well")


async def test_a_body_behind_another_request_ends_the_connection() -> None:
    """A request that waits for the answer to another may have none."""
    async with _server(HeadLimits()) as (connect, _):
        _, writer = connection = await connect()
        writer.write(b"GET /slow HTTP/1.1\r\nhost: here\r\n\r\n")
        writer.write(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\n\r\nbody")
        assert await _rest_of(connection) == b""

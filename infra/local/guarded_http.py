"""A uvicorn protocol that limits what slow, silent and hostile HTTP connections cost.

uvicorn bounds neither the time nor the size of a request head. This protocol bounds both. Hypercorn and granian bound
heads, but neither bounds idle connections, answers that are not read, or the framing of a body.

When more than `max_waiting` connections are idle, this protocol closes the oldest, so that silent clients cannot
exhaust the connections. A client that was answered before its whole body arrived (with 401, for example) has `head_s`
seconds to finish sending. If the rest of the body is long, or the body was refused, the rest is discarded without
parsing, and the connection takes no further request. The response then says `connection: close`.

A client that does not read its answers holds memory in this process and in the kernel. The kernel's send buffer is
therefore small, and a connection that takes less than `min_read_bytes` in `write_s` is reset. Until then it counts as
waiting, as does every connection from its last answer to its next head.

The application never sees the framing of a chunked body: chunk sizes, extensions and trailer fields. Trailers, which
uvicorn would add to the request's headers, are dropped, and the total size of the framing is bounded.

The parser calls Python for each chunk, field and request, and one read may hold tens of thousands of them. Each is
therefore limited where it is parsed, by an exception that ends the parsing of the read.
"""

import asyncio
import logging
import socket
import struct
import sys
import weakref
from dataclasses import dataclass, field
from typing import Any, NoReturn

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

TOO_SLOW = (408, "Request Timeout", "the request's head did not come in time")
TOO_LARGE = (431, "Request Header Fields Too Large", "the request's head is too large")
TOO_MANY = (429, "Too Many Requests", "more requests wait on this connection than it may have")
MALFORMED = (400, "Bad Request", "the request is not HTTP/1.1")
LONG_PATH = (414, "URI Too Long", "the path is too long")
UNWANTED = (413, "Content Too Large", "this method takes no body")
TOO_MUCH_FRAMING = (400, "Bad Request", "the body's chunks have more framing than data, or too many trailer fields")
SMALL_CHUNKS = (400, "Bad Request", "the body is in too many small chunks")
FIELD_BYTES = len(b": \r\n")
CLOSE = (b"connection", b"close")
WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
"""Methods for which no operation of the API reads a body."""
AT_ONCE = struct.pack("ii", 1, 0)
"""The value of SO_LINGER, enabled with a timeout of 0 s: `close` then sends RST and frees the send buffer."""
USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)
"""Linux only. The option also ends a connection that is closed here but whose last answer the client does not read."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Limits for one connection, and for all idle connections of the process together."""

    head_s: float = 10.0
    max_head_bytes: int = 64 * 1024
    """Limit for a head, and for the part of a chunked body's framing that exceeds the size of its data."""
    max_head_fields: int = 100
    """Limit for the fields of a head, and for the trailer fields of a chunked body."""
    max_path_bytes: int = 4 * 1024
    """uvicorn decodes each escape of a path for some microseconds, before any share of the loop is counted. The
    longest path of the API has a class of 256 characters, of nine bytes each when escaped."""
    max_small_chunks: int = 4_096
    """Limit for the chunks of a body that exceed one for each `min_chunk_bytes` of its data. One chunk of each read
    does not count, so that a client may send small chunks one by one."""
    min_chunk_bytes: int = 64
    max_unread_bytes: int = 256 * 1024
    """Limit for the body of a method that takes none. The rest of a body that was already answered is parsed up to
    this limit, framing included."""
    max_pipelined: int = 1
    """Requests that one connection may queue behind the current one, with their parsed heads. A client whose answer
    has come in full may send its next request before the application returns."""
    read_bytes: int = 32 * 1024
    """Bytes that one read takes. asyncio's default of 256 KiB would be held of each request that has not begun."""
    write_s: float = 30.0
    min_read_bytes: int = 32 * 1024
    """A client that takes less of a pending answer than this in `write_s` is disconnected."""
    send_buffer_bytes: int = 64 * 1024
    """SO_SNDBUF of a connection. Linux reserves twice this value."""
    max_waiting: int = 2_000
    """Connections without a whole head, or whose client may not have read its answer. One more closes the oldest of
    them, if it has waited for `grace_s`."""
    grace_s: float = 1.0
    """No connection is closed earlier: the loop accepts many before it reads the first, whose head may be there."""


def _errors_only() -> logging.Logger:
    """Return a logger for uvicorn without its warnings about malformed requests and upgrades.

    Any client could fill the log with those.
    """
    logger = logging.getLogger("uvicorn.error.connection")
    logger.setLevel(logging.ERROR)
    return logger


@dataclass(frozen=True, slots=True)
class Guard:
    """The limits, and the connections of this process that wait for their client, oldest first."""

    limits: HeadLimits = HeadLimits()
    waiting: "dict[GuardedProtocol, float]" = field(default_factory=dict)
    """The start of each wait, by the event loop's clock."""
    logger: logging.Logger = field(default_factory=_errors_only)

    def protocol(self, **of_uvicorn: Any) -> "GuardedProtocol":
        """Create the protocol of one connection. Pass it to uvicorn as `Config(http=guard.protocol)`."""
        return GuardedProtocol(self, **of_uvicorn)

    def make_room(self, now: float) -> None:
        """Close the connections that have waited longest until at most `max_waiting` are left."""
        while len(self.waiting) > self.limits.max_waiting:
            oldest, since = next(iter(self.waiting.items()))
            if now - since < self.limits.grace_s:
                return
            oldest.give_way()


class _Refused(Exception):
    """Raised in a callback of the parser, so that it does not parse the rest of the read."""


class _CycleTransport(asyncio.Transport):
    """What uvicorn's cycle of one request uses of a transport. `close` keeps a connection whose body still arrives.

    uvicorn closes with the last byte of a response that says `connection: close`. A client that still sends would then
    be reset, perhaps before it reads the response.
    """

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        super().__init__()
        self._transport = transport
        self._cycle = weakref.proxy(cycle)  # which refers to this transport

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        if not (self._cycle.response_complete and self._cycle.more_body):  # else see `on_response_complete`
            self._transport.close()


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with the limits of a `Guard`.

    Three timers run: `_timer` for the current head, `_rest` for the unread remainder of a body that is already
    answered, and `_stalled` while the client does not read its answer.
    """

    def __init__(self, guard: Guard, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._guard = guard
        self.logger = guard.logger
        self._timer: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        self._unbroken_bytes = 0
        self._unread_bytes = 0
        self._declared_bytes = 0
        self._pieces = 0
        self._trailers = 0
        self._is_done = False  # what arrives from now on is discarded
        self._is_lost = False
        self._running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = self._guard.limits.read_bytes  # type: ignore[attr-defined]  # of asyncio's transport
        self._bound_sending(transport.get_extra_info("socket"))
        self._await_head()
        self._guard.make_room(self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        self._await_no_reading()
        self._await_no_more()
        self._await_no_rest()
        self._is_lost = True
        super().connection_lost(exc)
        # A request that waits refers to this protocol. Nothing is sent any more, so neither of the two needs the other.
        self.pipeline.clear()
        self.cycle = None  # type: ignore[assignment]
        if self._running is not None:  # uvicorn tells the newest request alone that its client has gone
            self._running.disconnected = True
            self._running.message_event.set()
            self._running = None

    def _bound_sending(self, connection: socket.socket) -> None:
        limits = self._guard.limits
        # A client that does not read its answers occupies this buffer in the kernel.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.send_buffer_bytes)
        # The event loop no longer sees a connection after `close`; this option makes the kernel drop unread answers.
        if USER_TIMEOUT is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, USER_TIMEOUT, round(limits.write_s * 1000))

    def pause_writing(self) -> None:
        """Start the timer for a client that does not read: the transport's write buffer is full."""
        super().pause_writing()
        self._guard.waiting.setdefault(self, self.loop.time())  # one that waits already keeps its place
        self._await_reading()
        self._guard.make_room(self.loop.time())

    def _await_reading(self) -> None:
        # Progress is measured, not the total time: a large answer over a slow line may take longer than `write_s`.
        left = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(self._guard.limits.write_s, self._check_reading, left)

    def _check_reading(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < self._guard.limits.min_read_bytes:
            self._reset()
        else:
            self._await_reading()

    def resume_writing(self) -> None:
        self._await_no_reading()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._is_done:
            return
        limit, in_body = self._guard.limits.max_head_bytes, self._timer is None  # the timer ends with the head
        if self._rest is not None:
            self._unread_bytes += len(data)
            if self._unread_bytes > self._guard.limits.max_unread_bytes:
                self._discard_rest()
                return
        if in_body:
            self._count_framing(len(data))
        else:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_done:
            return
        if self._timer is not None and self._head_bytes > limit:
            self._refuse(*TOO_LARGE)
        # `_framing_bytes` includes the data, so the difference is the framing that exceeds it. `_unbroken_bytes` finds
        # an extension or a trailer that never ends.
        if in_body and max(self._framing_bytes - 2 * self._body_bytes, self._unbroken_bytes) > limit:
            self._refuse(*TOO_MUCH_FRAMING)

    def _count_framing(self, size: int) -> None:
        """Count bytes that arrived after the head. They include the data, which `on_body` counts separately."""
        self._framing_bytes += size
        self._unbroken_bytes += size
        self._pieces -= 1  # a read costs more than the piece of a body that it brings

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._body_bytes = self._framing_bytes = self._unbroken_bytes = self._pieces = self._trailers = 0
        if self._timer is None:  # the timer of the first head has run since the connection was made
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._timer is not None:
            super().on_header(name, value)
            if len(self.headers) > self._guard.limits.max_head_fields:
                self._stop(*TOO_LARGE)
            return
        self._trailers += 1  # without the timer the head is complete, and this is a trailer field
        if self._trailers > self._guard.limits.max_head_fields:
            self._stop(*TOO_MUCH_FRAMING)

    def on_headers_complete(self) -> None:
        # `data_received` compares whole reads only, and one read may hold a head larger than the limit and its end.
        limits = self._guard.limits
        size = len(self.url) + sum(len(name) + len(value) + FIELD_BYTES for name, value in self.headers)
        if size > limits.max_head_bytes:
            self._stop(*TOO_LARGE)
        if len(self.url.partition(b"?")[0]) > limits.max_path_bytes:
            self._stop(*LONG_PATH)
        if len(self.pipeline) >= limits.max_pipelined:
            self._stop(*TOO_MANY)
        super().on_headers_complete()  # may raise for the URL, which is then refused as part of a head
        self._await_no_more()
        self.cycle.transport = _CycleTransport(self.transport, self.cycle)
        self._expect_body()
        self.flow.resume_reading()  # uvicorn pauses it for a pipelined request, and would not see the client's end

    def _expect_body(self) -> None:
        """Let a response say `connection: close` as long as the rest of the body may be too long to be parsed."""
        fields = dict(self.headers)
        self._declared_bytes = 0
        if b"transfer-encoding" in fields:
            self._declared_bytes = sys.maxsize
        elif int(fields.get(b"content-length", 0)) > self._guard.limits.max_unread_bytes:
            self._declared_bytes = int(fields[b"content-length"])
        if self._declared_bytes:
            self.cycle.default_headers = [*self.server_state.default_headers, CLOSE]

    def _expect_little(self) -> None:
        """Let the connection continue after a response, because the rest of the body is short."""
        self._declared_bytes = 0
        self.cycle.default_headers = self.server_state.default_headers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Keep the body only where the application reads it."""
        limits = self._guard.limits
        self._body_bytes += len(body)
        self._unbroken_bytes = 0
        if 0 < self._declared_bytes <= self._body_bytes + limits.max_unread_bytes:
            self._expect_little()
        self._pieces += 1
        if self._pieces > limits.max_small_chunks + self._body_bytes // limits.min_chunk_bytes:
            self._stop(*SMALL_CHUNKS)
        if self.pipeline:  # uvicorn would buffer the body until the answers before it are sent; usual clients send none
            self._stop(*TOO_MANY)
        if self.scope["method"] not in WITHOUT_BODY:
            super().on_body(body)
        elif self._body_bytes > limits.max_unread_bytes:
            self._stop(*UNWANTED)

    def on_message_complete(self) -> None:
        if self._declared_bytes:
            self._expect_little()
        self._await_no_rest()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # Closing at once would reset the connection, and a client that still sends might never read its answer.
        if self.cycle.response_complete:  # otherwise a pipelined request has begun
            self.cycle.body = bytearray()  # what nobody will read
            if self.cycle.more_body and not self.cycle.keep_alive:
                self._discard_rest()
            elif self.cycle.more_body:
                self._await_rest()
            self._await_client()

    def _await_rest(self) -> None:
        if self._rest is None:
            self._unread_bytes = 0
            self._rest = self.loop.call_later(self._guard.limits.head_s, self.transport.close)

    def _discard_rest(self) -> None:
        """Take no further request, and discard what arrives until the client closes the connection or `_rest` does."""
        self._is_done = True
        self.cycle.waiting_for_100_continue = False  # `receive` would write 100 Continue after the end of the responses
        self._await_rest()
        self._unset_keepalive_if_required()
        if not self.transport.is_closing():
            self.flow.resume_reading()  # uvicorn paused it if the application had much of the body left to read
            self.transport.write_eof()  # the client learns that the connection takes no further request

    def _await_client(self) -> None:
        """Count the connection as waiting until its next head.

        Only the kernel knows whether the client has read a short answer.
        """
        if not self._is_lost:  # `connection_lost` has already run, and nothing would remove the entry again
            self._guard.waiting.setdefault(self, self.loop.time())
            self._guard.make_room(self.loop.time())

    def send_400_response(self, _: str) -> None:
        """Override uvicorn's answer to a request that the parser rejects."""
        self._refuse(*MALFORMED)

    def give_way(self) -> None:
        """Close this connection in favour of a newer one."""
        # At once: `connection_lost` is called later, and until then `make_room` would find this connection again.
        self._await_no_reading()
        self._await_no_more()
        self._reset()

    def _reset(self) -> None:
        """Abort the connection and discard what the kernel has buffered for it."""
        # After a plain close the kernel would go on sending its buffer to a client that does not read.
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        self.transport.abort()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._guard.waiting.setdefault(self, self.loop.time())
        self._timer = self.loop.call_later(self._guard.limits.head_s, self._refuse, *TOO_SLOW)

    def _await_no_more(self) -> None:
        if self._stalled is None:  # otherwise the connection still waits for its client to read
            self._guard.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _await_no_reading(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
            if self._timer is None:
                self._guard.waiting.pop(self, None)

    def _await_no_rest(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _stop(self, status: int, reason: str, detail: str) -> NoReturn:
        """Refuse within a callback of the parser.

        Raises:
            _Refused: always; `data_received` of uvicorn then calls `send_400_response`, which finds the refusal
        """
        self._refuse(status, reason, detail)
        raise _Refused

    def _refuse(self, status: int, reason: str, detail: str) -> None:
        """Answer with a problem and close. If another answer has begun or comes first, only close."""
        if self._is_done:
            return
        in_head, self._is_done = self._timer is not None, True
        self._await_no_more()
        is_answered = not in_head and self.cycle.response_complete
        may_answer = not is_answered and self._may_answer(in_head=in_head)
        if may_answer:
            body = f'{{"type": "about:blank", "title": "{reason}", "status": {status}, "detail": "{detail}"}}'
            head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/problem+json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        if is_answered or (may_answer and not in_head):
            self._discard_rest()  # closing at once could reset the connection before the client reads the answer
        else:
            self.transport.close()
        self._await_client()

    def _may_answer(self, *, in_head: bool) -> bool:
        if in_head:
            return bool(getattr(self.cycle, "response_complete", True))  # `None` before the first request
        if self.pipeline or self.cycle.response_started:
            return False
        self.cycle.disconnected = True  # discards the application's own answer, which would come second
        self.cycle.response_complete = True  # uvicorn's shutdown does not wait for it either
        self.cycle.message_event.set()
        return True

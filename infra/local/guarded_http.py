"""HTTP connections that cost little until a whole request head has arrived.

uvicorn waits for a head as long as a client likes, and keeps as much of it as comes. Here a head has a time and a size;
and where too many connections wait for theirs, the oldest makes room, so that silent clients keep nobody out. A client
that was answered before its whole body arrived (with 401, say) gets `head_s` more seconds to finish sending.

A client that does not read its answers holds them in our memory and in the kernel's. So what the kernel holds of a
connection is small, and one that takes nothing for `write_s` is closed; meanwhile it counts as one that waits. So does
every connection from its last answer to its next head, or to its end: whether the client has read a short answer, only
the kernel knows.

A chunked body has parts that no application sees: sizes, extensions, and the trailer fields after its end, which
uvicorn would keep and add to the request's headers. Trailers are dropped, and all of this framing is bounded.
"""

import asyncio
import logging
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

TOO_SLOW = (408, "Request Timeout", "the request's head did not come in time")
TOO_LARGE = (431, "Request Header Fields Too Large", "the request's head is too large")
TOO_MANY = (429, "Too Many Requests", "more requests wait on this connection than it may have")
MALFORMED = (400, "Bad Request", "the request is not HTTP/1.1")
TOO_MUCH_FRAMING = (400, "Bad Request", "the body's chunks have more framing than data, or too many trailer fields")
FIELD_BYTES = len(b": \r\n")
WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
"""No operation of the API reads a body of these."""
AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time."""
USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)
"""Linux alone: also ends a connection that we have closed, whose last answer the client does not read."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """What a connection may use before its request is known."""

    head_s: float = 10.0
    max_head_bytes: int = 64 * 1024
    """Of a head; and of a chunked body's framing beyond the size of its data."""
    max_head_fields: int = 100
    max_pipelined: int = 16
    """Requests that wait on one connection for the answers before theirs."""
    write_s: float = 30.0
    min_read_bytes: int = 32 * 1024
    """What a client takes of a waiting answer in `write_s` at least, or its connection ends."""
    send_buffer_bytes: int = 64 * 1024
    """What the kernel keeps of answers for one connection; it counts twice as much for it."""
    max_waiting: int = 2_000
    """Connections without a whole head, or whose client may not have read its answer; one more closes the oldest of
    them, once it has waited for `grace_s`."""
    grace_s: float = 1.0
    """Many connections are accepted before the first is read: who sends a head at once must get through."""


def _errors_only() -> logging.Logger:
    """uvicorn warns of each malformed request, and twice of each upgrade: anyone could fill the log with them."""
    logger = logging.getLogger("uvicorn.error.connection")
    logger.setLevel(logging.ERROR)
    return logger


@dataclass(frozen=True, slots=True)
class Guard:
    """The limits, and which connections of this process wait for their client, the oldest first."""

    limits: HeadLimits = HeadLimits()
    waiting: "dict[GuardedProtocol, float]" = field(default_factory=dict)
    """Since when, by the event loop's clock."""
    logger: logging.Logger = field(default_factory=_errors_only)

    def protocol(self, **of_uvicorn: Any) -> "GuardedProtocol":
        """What uvicorn calls for each connection: `Config(http=guard.protocol)`."""
        return GuardedProtocol(self, **of_uvicorn)

    def make_room(self, now: float) -> None:
        while len(self.waiting) > self.limits.max_waiting:
            oldest, since = next(iter(self.waiting.items()))
            if now - since < self.limits.grace_s:
                return
            oldest.give_way()


class GuardedProtocol(HttpToolsProtocol):
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
        self._is_refused = False
        self._is_lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._bound_sending(transport.get_extra_info("socket"))
        self._await_head()
        self._guard.make_room(self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        self._await_no_reading()
        self._await_no_more()
        self._await_no_rest()
        self._is_lost = True
        super().connection_lost(exc)

    def _bound_sending(self, connection: socket.socket) -> None:
        limits = self._guard.limits
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.send_buffer_bytes)
        if USER_TIMEOUT is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, USER_TIMEOUT, round(limits.write_s * 1000))

    def pause_writing(self) -> None:
        """The client has not taken what was sent before."""
        super().pause_writing()
        self._guard.waiting.setdefault(self, self.loop.time())
        self._await_reading()
        self._guard.make_room(self.loop.time())

    def _await_reading(self) -> None:
        """A large answer to a slow line takes longer than `write_s`, and is let through."""
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
        if self._is_refused:
            return
        limit, in_body = self._guard.limits.max_head_bytes, self._timer is None
        if in_body:
            self._count_framing(len(data))
        else:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_refused:
            return
        if self._timer is not None and self._head_bytes > limit:
            self._refuse(*TOO_LARGE)
        if in_body and max(self._framing_bytes - 2 * self._body_bytes, self._unbroken_bytes) > limit:
            self._refuse(*TOO_MUCH_FRAMING)

    def _count_framing(self, size: int) -> None:
        """What has arrived since the head, data included: `on_body` says how much of it was data."""
        self._framing_bytes += size
        self._unbroken_bytes += size

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._body_bytes = self._framing_bytes = self._unbroken_bytes = 0
        if self._timer is None:
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._timer is not None:  # a trailer field comes after the head, and is no header of the request
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The exact size of the head: several fields may have come in one piece that is larger than the limit."""
        limits = self._guard.limits
        size = len(self.url) + sum(len(name) + len(value) + FIELD_BYTES for name, value in self.headers)
        if size > limits.max_head_bytes or len(self.headers) > limits.max_head_fields:
            self._refuse(*TOO_LARGE)
        elif len(self.pipeline) >= limits.max_pipelined:
            self._refuse(*TOO_MANY)
        if self._is_refused:
            return
        self._await_no_more()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Bodies that nothing reads are not kept: those of methods without one, and of requests that wait for another's
        answer, which no usual client sends."""
        if self._is_refused:
            return
        self._body_bytes += len(body)
        self._unbroken_bytes = 0
        if self.pipeline:
            self._refuse(*TOO_MANY)
        elif self.scope["method"] not in WITHOUT_BODY:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_refused:
            return
        self._await_no_rest()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body and self._rest is None:
            self._rest = self.loop.call_later(self._guard.limits.head_s, self.transport.close)
        if self.cycle.response_complete:
            self._await_client()

    def _await_client(self) -> None:
        """To read its answer, and to send its next head."""
        if not self._is_lost:  # else nothing would take it out again
            self._guard.waiting.setdefault(self, self.loop.time())
            self._guard.make_room(self.loop.time())

    def send_400_response(self, _: str) -> None:
        """What uvicorn calls for what the parser does not understand."""
        self._refuse(*MALFORMED)

    def give_way(self) -> None:
        self._await_no_reading()
        self._await_no_more()
        self._reset()

    def _reset(self) -> None:
        """Ends the connection, and what the kernel holds for it: after a mere close it would go on sending."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        self.transport.abort()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._guard.waiting.setdefault(self, self.loop.time())
        self._timer = self.loop.call_later(self._guard.limits.head_s, self._refuse, *TOO_SLOW)

    def _await_no_more(self) -> None:
        if self._stalled is None:  # else its client still has to read
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

    def _refuse(self, status: int, reason: str, detail: str) -> None:
        """Says why, and closes. A connection whose answer has begun, or is to an earlier request, is only closed."""
        if self._is_refused:
            return
        in_head, self._is_refused = self._timer is not None, True
        self._await_no_more()
        if self._may_answer(in_head=in_head):
            body = f'{{"type": "about:blank", "title": "{reason}", "status": {status}, "detail": "{detail}"}}'
            head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/problem+json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        self.transport.close()
        self._await_client()

    def _may_answer(self, *, in_head: bool) -> bool:
        if getattr(self.cycle, "response_complete", True):
            return True
        if in_head or self.pipeline or self.cycle.response_started:
            return False
        self.cycle.disconnected = True  # the application's own answer would come second
        self.cycle.message_event.set()
        return True

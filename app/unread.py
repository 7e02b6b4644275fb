"""Sends large responses in pieces and counts them for their tenant until the client has read them.

Given a whole body, the server buffers it for as long as a slow client reads. Sent in pieces, each after the previous
one has drained, the body stays in this process's accounting.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth import Principal
from app.problems import Problem

PIECE_BYTES = 64 * 1024
"""The size of a piece. Smaller bodies are not counted: the limit on connections bounds them."""


class UnreadMiddleware:
    """Bounds the unread bytes of a tenant's large responses. It runs inside AuthMiddleware, which sets the tenant.

    A tenant's only large response is always sent, whatever its size.
    """

    def __init__(self, app: ASGIApp, *, most_bytes: int) -> None:
        self._app = app
        self._most = most_bytes
        self._unread: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal | None = scope.get("state", {}).get("principal")
        if principal is None:  # public responses are small, or are streamed already
            await self._app(scope, receive, send)
            return
        tenant, start, is_refused = principal.tenant, None, False

        async def send_in_pieces(message: Message) -> None:
            nonlocal start, is_refused
            if message["type"] == "http.response.start":
                start = message  # held back until the size of the body is known, since a refusal may replace it
                return
            size = len(message.get("body", b""))
            if start is not None:
                is_refused = size > PIECE_BYTES and self._has_too_many(tenant, size)
                if is_refused:
                    await self._refusal().response()(scope, receive, send)
                else:
                    await send(start)
                start = None
            # The application does not know of the refusal and sends the rest of its response, which is discarded.
            if not is_refused:
                with self._counted(tenant, size if size > PIECE_BYTES else 0):
                    for piece in _pieces(message):
                        await send(piece)

        await self._app(scope, receive, send_in_pieces)

    def _has_too_many(self, tenant: str, more: int) -> bool:
        unread = self._unread[tenant]
        return unread > 0 and unread + more > self._most

    @contextmanager
    def _counted(self, tenant: str, size: int) -> Iterator[None]:
        self._unread[tenant] += size
        try:
            yield
        finally:
            self._unread[tenant] -= size
            if not self._unread[tenant]:
                del self._unread[tenant]

    def _refusal(self) -> Problem:
        detail = f"your clients have not read {self._most} bytes of large answers yet"
        return Problem("too-many-requests", detail, headers={"Retry-After": "1"})


def _pieces(message: Message) -> Iterator[Message]:
    body = message.get("body", b"")
    # The last piece keeps the message's own `more_body`; all pieces before it say that more follows.
    for start in range(0, len(body) - PIECE_BYTES, PIECE_BYTES):
        yield {"type": message["type"], "body": body[start : start + PIECE_BYTES], "more_body": True}
    last = max(0, (len(body) - 1) // PIECE_BYTES * PIECE_BYTES)
    yield {**message, "body": body[last:]}

"""The response that carries server-sent events, and the bounds on open ones."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.auth import READ, Doorkeeper, Principal
from app.body.large import TenantCount
from app.problems import Problem
from storage.bucket.budget import budget_of

KEEP_ALIVE = b": keep-alive\n\n"
RETRY_S = 5

# Proxies buffer other types, and some compare the whole value, so it has no charset.
_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}


def frame(name: str, data: BaseModel, event_id: str | None = None) -> bytes:
    """Encode one event. JSON has no line breaks outside of strings, where they are escaped."""
    identified = "" if event_id is None else f"id: {event_id}\n"
    return f"{identified}event: {name}\ndata: {data.model_dump_json()}\n\n".encode()


class OpenStreams:
    """Bounds the open streams of a process, of a tenant (half of them) and of a key, and checks their keys."""

    def __init__(self, door: Doorkeeper, *, most: int, most_of_key: int, budget_s: float) -> None:
        self._door = door
        self._most, self._most_of_key, self._most_of_tenant = most, most_of_key, max(1, most // 2)
        self._budget_s = budget_s
        self._of_key: Counter[str] = Counter()
        self._of_tenant: Counter[str] = Counter()

    @contextmanager
    def counted(self, principal: Principal) -> Iterator[None]:
        """Count one stream while the context is open. Raises `Problem` beyond a limit."""
        kid, tenant = principal.kid, principal.tenant
        if self._of_key[kid] >= self._most_of_key:
            raise self._refusal(f"{self._most_of_key} streams of this key are open at this process already")
        if self._of_tenant[tenant] >= self._most_of_tenant:
            raise self._refusal(f"{self._most_of_tenant} of your streams are open at this process already")
        if self._of_key.total() >= self._most:
            raise self._refusal(f"{self._most} streams are open at this process already")
        self._of_key[kid] += 1
        self._of_tenant[tenant] += 1
        try:
            yield
        finally:
            self._of_key -= Counter((kid,))  # which also drops a key without streams
            self._of_tenant -= Counter((tenant,))

    def _refusal(self, detail: str) -> Problem:
        return Problem("too-many-streams", detail, headers={"Retry-After": str(RETRY_S)})

    async def may_go_on(self, scope: Scope) -> bool:
        """Whether the key or session of a stream is still valid. The answer may be as old as the cache of keys."""
        try:
            with budget_of(self._budget_s):  # that of the request is for its beginning
                return (await self._door.principal_still(scope)).may(READ)
        except Problem as problem:
            # A bucket that does not answer proves nothing about the key.
            return problem.type.slug != "unauthorized"


class StreamLife:
    """How long one stream goes on, and how long it may be silent."""

    def __init__(self, streams: OpenStreams, scope: Scope, *, longest_s: float, silence_s: float) -> None:
        self._streams, self._scope = streams, scope
        self._silence_s = silence_s
        self._now = asyncio.get_running_loop().time
        self._ends_at = self._now() + longest_s
        self._check_at = self._now() + silence_s

    @property
    def wait_s(self) -> float:
        """The longest wait for the next event."""
        return max(0.0, min(self._silence_s, self._ends_at - self._now()))

    async def is_over(self) -> bool:
        """Whether the stream has its longest duration, or its key is no longer valid."""
        if self._now() >= self._ends_at:
            return True
        if self._now() < self._check_at:
            return False
        self._check_at = self._now() + self._silence_s
        return not await self._streams.may_go_on(self._scope)


class EventStream(StreamingResponse):
    """Sends frames as they are made. The next one is made when the client has read the last, so none wait in memory."""

    def __init__(
        self, frames: AsyncGenerator[bytes], principal: Principal, streams: OpenStreams, in_flight: TenantCount
    ) -> None:
        super().__init__(frames, headers=_HEADERS)
        self._frames = frames
        self._principal = principal
        self._streams = streams
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Here and not in the route: a response that is never sent must not keep its place.
        async with aclosing(self._frames):
            if scope["method"] == "HEAD":  # the server would discard the frames until the stream ends
                await Response(headers=_HEADERS)(scope, receive, send)
                return
            with self._streams.counted(self._principal), self._in_flight.paused(self._principal.tenant):
                await super().__call__(scope, receive, send)

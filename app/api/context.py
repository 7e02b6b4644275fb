"""Helpers that routes share: the context of the app, the principal, the request body, and responses."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.auth import Principal
from app.batch_state import BatchWatch
from app.body import Body, BodyTooLarge, Place, TextTooLong
from app.body.arriving import ArrivingBodies, NewestBodies
from app.body.large import LargeBodies, TenantCount
from app.config import ApiConfig
from app.fields import MAX_IDEMPOTENCY_KEY
from app.heavy import off_loop
from app.numbers import MAX_DIGITS, whole
from app.problems import Problem
from app.services import Services
from app.shared import SharedReads
from app.streams.feeds import Feeds
from app.streams.live import LiveWatch
from app.streams.response import OpenStreams
from app.submission.acceptance import Identity
from app.watch import JobWatch
from storage.fair_slots import FairSlots
from storage.stores import Stores

T = TypeVar("T")

REPLAYED = "idempotency-replayed"
"""The response header that marks the result of an earlier request with the same Idempotency-Key."""

NO_STORE = {"cache-control": "no-store"}
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]{1,40})", re.IGNORECASE)
_CHARSETS = ("utf-8", "utf8", "us-ascii")
"""The accepted names of UTF-8 and its subset. RFC 8259 allows no other encoding, and defines no such parameter."""


@dataclass(frozen=True, slots=True)
class Context:
    services: Services
    watch: JobWatch
    batch_watch: BatchWatch
    large_bodies: LargeBodies
    working: LargeBodies
    receiving: ArrivingBodies
    pages: LargeBodies
    unfinished: TenantCount
    logins: NewestBodies
    in_flight: TenantCount
    long_polls: TenantCount
    webhook_tests: TenantCount
    streams: OpenStreams
    feeds: Feeds
    live: LiveWatch
    scan_turn: asyncio.Lock
    shared: SharedReads[Any]
    key_turns: FairSlots
    """Slots for making keys, one for each tenant, so that each key is counted before the next one is made."""
    rendered: SharedReads[bytes]

    def end_waits(self) -> None:
        """End all long polls before the process stops."""
        self.watch.end()
        self.batch_watch.end()
        self.feeds.end()

    @property
    def config(self) -> ApiConfig:
        return self.services.config

    @property
    def stores(self) -> Stores:
        return self.services.stores


def context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


def principal_of(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


def tenant_of(request: Request) -> str:
    return principal_of(request).tenant


def base_url(request: Request) -> str:
    """Return the base URL of links in responses: the configured one, or that of the request."""
    return (context_of(request).config.public_url or str(request.base_url)).rstrip("/")


def answer(model: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(model.model_dump_json(), status, headers, "application/json")


async def shared_body(request: Request, key: Hashable, make: Callable[[], BaseModel]) -> bytes:
    """Render a large response off the event loop, once for all requests that need it now.

    A change answers all clients that wait for it at once, and to render each answer alone would stop the loop. `key`
    identifies what is rendered, with its version, among the tenant's.
    """
    # The base is part of the key because the links repeat the request's host, which each client chooses.
    rendered, base = context_of(request).rendered, base_url(request)
    return await rendered.get(
        tenant_of(request), (key, base), lambda: off_loop(lambda: make().model_dump_json().encode())
    )


async def shared_answer(request: Request, make: Callable[[], Awaitable[BaseModel]]) -> Response:
    """Respond to an expensive GET. Concurrent requests for the same URL share one read."""

    async def body() -> bytes:
        return (await make()).model_dump_json().encode()

    return await shared_bytes(request, body)


async def shared_bytes(request: Request, body: Callable[[], Awaitable[bytes]]) -> Response:
    """Respond to an expensive GET as `shared_answer` does, with JSON that `body` renders."""
    url, base = request.url, base_url(request)
    # The base is part of the key because the links repeat the request's host, which each client chooses.
    # Encoded once: each of the requests that wait would otherwise encode megabytes, all in the same turn of the loop.
    found = await context_of(request).shared.get(tenant_of(request), (url.path, url.query, base), body)
    return Response(found, 200, NO_STORE, "application/json")


def idempotency_key(request: Request) -> str | None:
    """Return the request's Idempotency-Key, or None. Raises `Problem` for a malformed one."""
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        raise Problem("bad-idempotency-key", "the Idempotency-Key is empty, too long, or not printable ASCII")
    return key


def body_of(request: Request) -> Body:
    """Return a body for the request's document, which waits for its places if it is large."""
    context, tenant = context_of(request), tenant_of(request)
    return Body(partial(context.large_bodies.enter, tenant), partial(context.working.enter, tenant), context.scan_turn)


async def json_body(request: Request, body: Body, *, limit: int, keep: Sequence[Place] = ()) -> Any:
    """Receive the request's JSON document. Long texts at `keep` stay spooled in `body`. Raises `Problem`."""
    context, tenant = context_of(request), tenant_of(request)
    config = context.config
    # A declared size beyond the limit is refused before the body is read; the received bytes are counted as well. Only
    # the first digits are converted: they exceed every limit, and `int` refuses thousands of digits.
    if (declared := request.headers.get("content-length", "")).isdecimal() and int(declared[:MAX_DIGITS]) > limit:
        raise Problem("request-too-large", f"the body has more than {limit} bytes")
    charset = _CHARSET.search(request.headers.get("content-type", ""))
    if charset is not None and charset[1].lower() not in _CHARSETS:
        raise Problem("unsupported-media-type", f"the body's charset is {charset[1]!r}, and JSON is UTF-8")
    with _json_faults():
        stream = in_time(request.stream(), config.body_idle_s, config.max_body_s)
        # The place for receiving is left after the files are removed, since it bounds them.
        chunks = context.receiving.chunks(tenant, stream, body.at_close)
        # Counted while the body arrives, and no longer once it waits for its turn to be processed.
        with context.unfinished.counted(tenant):
            document = await body.receive(chunks, limit=limit)
        return await body.restored(document, config.text_limits, keep)


async def json_text(request: Request, body: Body, text: bytes, *, keep: Sequence[Place] = ()) -> Any:
    """Parse a JSON document that has arrived in another form, under the limits of `json_body`. Raises `Problem`."""

    async def chunks() -> AsyncIterator[bytes]:
        yield text

    with _json_faults():
        document = await body.receive(chunks(), limit=len(text))
        return await body.restored(document, context_of(request).config.text_limits, keep)


@contextmanager
def _json_faults() -> Iterator[None]:
    """Raise what is wrong with a JSON document as a `Problem`."""
    try:
        yield
    # The rest of the body is unread, so the connection cannot serve a further request.
    except TimeoutError as error:
        detail = str(error) or "the body did not come in time"
        raise Problem("request-timeout", detail, headers={"connection": "close"}) from None
    except BodyTooLarge as error:
        raise Problem("request-too-large", f"the body has {error}") from None
    except TextTooLong as error:
        raise Problem("text-too-long", str(error)) from None
    # The errors above and these two are ValueErrors as well, so the general clause comes last.
    except UnicodeDecodeError as error:
        raise Problem("malformed-json", f"the byte at position {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        detail = "the body is empty" if not error.doc.strip() else f"{error.msg}, at {_place(error)}"
        raise Problem("malformed-json", detail) from None
    except (ValueError, RecursionError) as error:
        raise Problem("malformed-json", str(error)[:200]) from None


def _place(error: json.JSONDecodeError) -> str:
    return f"line {error.lineno}, column {error.colno}"


async def in_time(chunks: AsyncIterator[bytes], idle_s: float, total_s: float) -> AsyncIterator[bytes]:
    """Yield the chunks. Raises TimeoutError after a pause of `idle_s`, or after `total_s` in all."""
    deadline = time.monotonic() + total_s
    while (chunk := await asyncio.wait_for(anext(chunks, None), min(idle_s, deadline - time.monotonic()))) is not None:
        yield chunk


def identity_of(request: Request, body: Body) -> Identity:
    """Return the identity of a submission. A malformed `traceparent` is ignored rather than refused."""
    trace = request.headers.get("traceparent", "")
    return Identity(idempotency_key(request), body.fingerprint, trace if _TRACEPARENT.fullmatch(trace) else None)


def check_is_json(request: Request) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem("unsupported-media-type", "the body's Content-Type is not application/json")


def wait_seconds(request: Request) -> int | None:
    """Return the query parameter `wait`; None if it is missing. Raises `Problem`."""
    wait_s: int | None = whole_number(request, "wait", default=None, low=1, high=context_of(request).config.max_wait_s)
    return wait_s


async def long_poll(request: Request, wait: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return or raise what `wait` does. Raises `ClientDisconnect` if the client disconnects before.

    The request is counted as one that waits, and not as in flight meanwhile. Raises `Problem` beyond that limit.
    """
    context, tenant = context_of(request), tenant_of(request)
    with context.long_polls.counted(tenant), context.in_flight.paused(tenant):
        waiting, gone = asyncio.create_task(wait()), asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ClientDisconnect
            return waiting.result()
        finally:
            waiting.cancel()
            gone.cancel()
            await asyncio.gather(waiting, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    """Wait until the client disconnects. The rest of an unread body is discarded."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def whole_number(request: Request, name: str, *, default: Any, low: int, high: int) -> Any:
    """Return the query parameter as a whole number, or `default` if it is missing. Raises `Problem`."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        return whole(text, low, high)
    except ValueError as error:
        raise Problem("invalid-parameter", f"{name}: {error}") from None

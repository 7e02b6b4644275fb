"""Reads the forms of pages, in bounded memory and without holding up the event loop."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from urllib.parse import parse_qsl

from starlette.requests import Request

from app.api.context import context_of, tenant_of
from app.auth import NO_TENANT
from app.body import Body
from app.heavy import off_loop
from app.problems import Problem

FORM_TYPE = "application/x-www-form-urlencoded"
MAX_FORM_BYTES = 4 * 1024 * 1024
"""Largest form of a session: a prompt of `max_text_bytes` takes up to three times as much when it is encoded."""
MAX_LOGIN_BYTES = 8 * 1024
"""Largest form without a session. All of these count as one tenant's."""
SMALL_BYTES = 64 * 1024
"""A larger form takes one of the places for large bodies, as a body of /v1 does."""
QUICK_BYTES = 16 * 1024
"""A larger form is decoded in a thread: 4 MiB of escapes take half a second."""
MAX_FIELDS = 500
FORM_TIME_S = 30.0
LOGIN_TIME_S = 5.0
"""Seconds for a form without a session."""

Form = Mapping[str, str]


@asynccontextmanager
async def form_of(request: Request, *, is_public: bool) -> AsyncIterator[Form]:
    """Yield the fields of a form, of which a repeated one counts once. A large form has its place until the exit.

    Raises `Problem`.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise Problem("unsupported-media-type", f"the form's Content-Type is not {FORM_TYPE}")
    with ExitStack() as held:
        try:
            limit_s = LOGIN_TIME_S if is_public else FORM_TIME_S
            async with asyncio.timeout(min(limit_s, context_of(request).config.max_body_s)):
                body = await _received(request, held, is_public=is_public)
        except TimeoutError:
            detail = "the form did not come in time"
            raise Problem("request-timeout", detail, headers={"connection": "close"}) from None
        yield _parsed(body) if len(body) <= QUICK_BYTES else await off_loop(_parsed, body)


async def _received(request: Request, held: ExitStack, *, is_public: bool) -> bytes:
    context, limit = context_of(request), MAX_LOGIN_BYTES if is_public else MAX_FORM_BYTES
    body, has_place = bytearray(), False
    held.enter_context(context.unfinished.counted(NO_TENANT if is_public else tenant_of(request)))
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise Problem("request-too-large", f"the form has more than {limit} bytes", headers={"connection": "close"})
        if len(body) > SMALL_BYTES and not has_place:
            has_place = True
            held.callback(await context.receiving.enter(tenant_of(request)))
    request.state.has_place = has_place
    return bytes(body)


def form_body(request: Request) -> Body:
    """Return the body of a request of the API that a form, which was read by `form_of`, stands for."""
    context, tenant = context_of(request), tenant_of(request)
    # A large form has its place for receiving already, and a page its own. With two of them its tenant's forms could
    # wait for each other.
    begin = None if request.state.has_place else partial(context.receiving.enter, tenant)
    return Body(partial(context.large_bodies.enter, tenant), begin, context.scan_turn)


def _parsed(body: bytes) -> Form:
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
    except ValueError:  # not ASCII, not UTF-8 once decoded, or too many fields
        raise Problem("validation-error", "the form is not percent-encoded UTF-8, or has too many fields") from None

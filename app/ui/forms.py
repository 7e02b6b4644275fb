"""Reads the forms of pages, in bounded memory and without holding up the event loop."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from urllib.parse import parse_qsl

from starlette.requests import Request

from app.api.context import context_of, tenant_of
from app.heavy import off_loop
from app.problems import Problem

FORM_TYPE = "application/x-www-form-urlencoded"
MAX_FORM_BYTES = 4 * 1024 * 1024
"""Largest form of a session: a prompt of `max_text_bytes` takes up to three times as much when it is encoded."""
MAX_LOGIN_BYTES = 8 * 1024
"""Largest form without a session."""
SMALL_BYTES = 64 * 1024
"""A larger form takes one of the places for bodies that arrive, as a body of /v1 does."""
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
            async with asyncio.timeout(min(limit_s, context_of(request).config.max_body_s)) as limit:
                body = await (_received_public(request, limit) if is_public else _received(request, held))
        except TimeoutError as error:
            detail = str(error) or "the form did not come in time"
            raise Problem("request-timeout", detail, headers={"connection": "close"}) from None
        yield _parsed(body) if len(body) <= QUICK_BYTES else await off_loop(_parsed, body)


async def _received_public(request: Request, limit: asyncio.Timeout) -> bytes:
    # Never refused for the number of others: slow forms of a client without a key would keep all from logging in.
    with context_of(request).logins.counted(limit):
        return await _whole(request.stream(), MAX_LOGIN_BYTES)


async def _received(request: Request, held: ExitStack) -> bytes:
    context, tenant = context_of(request), tenant_of(request)
    held.enter_context(context.unfinished.counted(tenant))
    chunks = context.receiving.chunks(tenant, request.stream(), held.callback, after=SMALL_BYTES)
    return await _whole(chunks, MAX_FORM_BYTES)


async def _whole(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise Problem("request-too-large", f"the form has more than {limit} bytes")
    return bytes(body)


def _parsed(body: bytes) -> Form:
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
    except ValueError:  # not ASCII, not UTF-8 once decoded, or too many fields
        raise Problem("validation-error", "the form is not percent-encoded UTF-8, or has too many fields") from None

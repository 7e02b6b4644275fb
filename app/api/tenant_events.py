"""GET /v1/events: what happens to all jobs of a tenant, as one stream of server-sent events."""

from collections.abc import AsyncGenerator

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import Context, context_of, principal_of, tenant_of
from app.api.job_events import KNOWN_EVENT, LAST_EVENT_ID, SINCE, OutputEvent, StatusEvent
from app.fields import ResponseBody
from app.operations import Operation
from app.streams.feeds import Feed
from app.streams.jobs import life_of
from app.streams.response import KEEP_ALIVE, EventStream, frame

FIRST_POLL_S = 10.0
"""How long a stream waits for the first poll of its tenant's index, in seconds."""


class SyncEvent(ResponseBody):
    """`sync`: the stream does not continue where you were. A job of yours that is not in `active` has ended: get it."""

    active: list[str] = Field(description="the jobs that are queued or running")
    complete: bool = Field(description="whether `active` has all of them; it has those of the first 10,000 of a status")


TENANT_EVENTS: dict[str, type[ResponseBody]] = {"sync": SyncEvent, "status": StatusEvent, "output": OutputEvent}


async def events(request: Request) -> Response:
    context = context_of(request)
    known = request.headers.get(LAST_EVENT_ID) or request.query_params.get("since") or ""
    frames = _frames(request, context, known)
    return EventStream(frames, principal_of(request), context.streams, context.in_flight)


async def _frames(request: Request, context: Context, known: str) -> AsyncGenerator[bytes]:
    life = life_of(request)
    async with context.feeds.joined(tenant_of(request)) as feed:
        if not await feed.polled(min(FIRST_POLL_S, life.wait_s)):
            return
        number, is_new = feed.number_of(known), True
        while True:
            missed = None if number is None else feed.next_after(number)
            if number is None or missed is None:  # a new client or a slow one, or very many events
                number = feed.position
                yield sync(feed, number)
            elif missed:
                number += len(missed)
                yield b"".join(missed)
            elif is_new:  # so that the client learns that its stream is open
                yield KEEP_ALIVE
            is_new = False
            if feed.is_over or await life.is_over():
                return
            if feed.position == number:
                await feed.wait(number, life.wait_s)
                if feed.position == number and not feed.is_over:
                    yield KEEP_ALIVE


def sync(feed: Feed, number: int) -> bytes:
    return frame("sync", SyncEvent(active=feed.active, complete=feed.is_complete), feed.event_id(number))


OPERATIONS = (
    Operation(
        events,
        "stream_events",
        "get",
        "/v1/events",
        "Follow all jobs by server-sent events",
        {200: ("text/event-stream: statuses and outputs, until the stream has its longest duration", None)},
        parameters=(SINCE, KNOWN_EVENT),
        events=TENANT_EVENTS,
        refusals=("too-many-streams",),
    ),
)

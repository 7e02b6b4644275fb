"""/v1/webhooks and /v1/dead-letters: deliveries, replays, tests and receivers; event schemas and verification keys."""

import functools
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import (
    Context,
    answer,
    body_of,
    context_of,
    json_body,
    shared_answer,
    shared_bytes,
    tenant_of,
    whole_number,
)
from app.api.events import schema
from app.documents import Document
from app.fields import MAX_REPLAYED, Many, Moment, RequestBody, ResponseBody, WebhookUrl
from app.heavy import off_loop
from app.numbers import MAX_DIGITS, whole
from app.operations import ID, PAGE, Operation, Parameter
from app.problems import Problem
from app.submission.preparation import check_receiver, parsed
from app.submission.quotas import Quotas
from storage.concurrency import map_bounded
from storage.index_keys import DEAD_LETTER_ENTRY, EventRef, dead_letters_prefix
from storage.jobs.index import event_ref
from storage.jobs.models import JobEvent
from storage.jobs.record import JobRecord
from storage.signal import OUTBOX_TOPIC
from storage.webhooks.deliveries import Delivery
from storage.webhooks.endpoints import Endpoint

MAX_BODY_BYTES = 256 * 1024
MOST_ON_LOOP = 200
"""Attempts that are rendered within 2 ms. A page of deliveries has up to 6,000, which are rendered in a thread."""


class AttemptView(ResponseBody):
    """One POST to the receiver. `status` is the answer's; `error` says why there was none."""

    number: int
    at: Moment
    status: int | None
    duration_ms: int
    error: str | None
    excerpt: str | None = Field(description="the first 4 KB of the answer; of an older attempt, 256 characters")


class DeliveryView(ResponseBody):
    """How the delivery of one event went."""

    event_id: str = Field(description="the CloudEvent's id, and the webhook-id")
    type: str
    sequence: int
    url: str
    status: Literal["pending", "delivered", "dead"]
    reason: str | None = Field(description="why it was given up")
    next_at: Moment | None = Field(description="when it is tried next")
    attempts: list[AttemptView]


class DeliveryList(ResponseBody):
    deliveries: list[DeliveryView]
    next_cursor: str | None = Field(description="pass it as cursor for the next page")


class DeadLetterList(ResponseBody):
    dead_letters: list[DeliveryView]
    next_cursor: str | None = Field(description="pass it as cursor for the next page")


class ReplayRequest(RequestBody):
    """Which dead letters are sent again; all of them unless they are named."""

    event_ids: Many[str] | None = Field(None, max_length=MAX_REPLAYED)


class Replayed(ResponseBody):
    replayed: list[str] = Field(description="the ids of the events that are sent again")


class WebhookTestRequest(RequestBody):
    url: WebhookUrl = Field(description="the receiver to try")


class EndpointView(ResponseBody):
    """How a receiver has been doing."""

    url: str
    state: Literal["closed", "open", "disabled"] = Field(description="open: left alone until open_until")
    failures: int = Field(description="in a row")
    failing_since: Moment | None
    last_success_at: Moment | None
    open_until: Moment | None
    disabled_reason: str | None


class EndpointList(ResponseBody):
    endpoints: list[EndpointView]


class WebhookKeys(ResponseBody):
    keys: list[str] = Field(description="ed25519 public keys, as whpk_…")


def delivery_view(delivery: Delivery) -> DeliveryView:
    return DeliveryView(
        event_id=delivery.ref.event_id,
        type=delivery.type,
        sequence=delivery.sequence,
        url=_shown(delivery.url),
        status=delivery.status,
        reason=delivery.reason,
        next_at=delivery.next_at,
        attempts=[AttemptView.model_validate(attempt.model_dump()) for attempt in delivery.attempts],
    )


def endpoint_view(endpoint: Endpoint) -> EndpointView:
    return EndpointView(
        url=_shown(endpoint.url), state=endpoint.state, **endpoint.model_dump(exclude={"tenant", "url", "rev", "nonce"})
    )


def _shown(url: str) -> str:
    # A receiver's query often contains a token.
    path, query, _ = url.partition("?")
    return f"{path}?…" if query else path


async def deliveries(request: Request) -> Response:
    """List the deliveries of the job's events. Progress events that a newer one replaced are not listed."""
    context, tenant, job_id = context_of(request), tenant_of(request), request.path_params["job_id"]
    limit = whole_number(request, "limit", default=50, low=1, high=context.config.max_page)
    after = _sequence(request.query_params.get("cursor"))

    async def body() -> bytes:
        record = (await context.stores.jobs.read(tenant, job_id)).record
        events = [event for event in record.events if event.sequence > after]
        cursor = str(events[limit - 1].sequence) if len(events) > limit else None
        found = await deliveries_of(context, record, events[:limit])
        return await _rendered(
            found,
            lambda: DeliveryList(deliveries=[delivery_view(delivery) for delivery in found], next_cursor=cursor),
        )

    return await shared_bytes(request, body)


def _sequence(cursor: str | None) -> int:
    """Return the sequence of the last event before a page; 0 for the first page. Raises `Problem`."""
    if cursor is None:
        return 0
    try:
        return whole(cursor, 1, 10**MAX_DIGITS - 1)
    except ValueError:
        raise Problem("bad-cursor", "this cursor was not issued by this list") from None


async def deliveries_of(context: Context, record: JobRecord, events: Sequence[JobEvent]) -> list[Delivery]:
    """Return the deliveries of these events of a job that have started."""
    return await context.stores.deliveries.of(event_ref(record, event) for event in events)


async def _rendered(found: Sequence[Delivery], view: Callable[[], BaseModel]) -> bytes:
    """Render a page of deliveries as JSON, in a thread if they have many attempts."""

    def rendered() -> bytes:
        return view().model_dump_json().encode()

    if sum(len(delivery.attempts) for delivery in found) <= MOST_ON_LOOP:
        return rendered()
    return await off_loop(rendered)


async def redeliver(request: Request) -> Response:
    job_id, event_id = request.path_params["job_id"], request.path_params["event_id"]
    return answer(await redeliver_event(context_of(request), tenant_of(request), job_id, event_id), 202)


async def redeliver_event(context: Context, tenant: str, job_id: str, event_id: str) -> DeliveryView:
    """Send an event again, whatever its delivery's status. A disabled receiver is enabled."""
    record = (await context.stores.jobs.read(tenant, job_id)).record
    refs = {ref.event_id: ref for ref in (event_ref(record, event) for event in record.events)}
    ref = refs.get(event_id)
    again = await _replay(context, ref) if ref is not None else None
    if again is None:
        raise Problem("unknown-event", "the job has no delivery of this event yet")
    return delivery_view(again)


async def dead_letters(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    limit = whole_number(request, "limit", default=50, low=1, high=context.config.max_page)
    after = letters_after(request, tenant)

    async def body() -> bytes:
        found, last = await context.stores.deliveries.dead_letters(tenant, limit=limit, after=after)
        return await _rendered(
            found,
            lambda: DeadLetterList(
                dead_letters=[delivery_view(one) for one in found], next_cursor=letters_cursor(last)
            ),
        )

    return await shared_bytes(request, body)


async def replay(request: Request) -> Response:
    """Send dead letters again: the newest 1,000, or those of them that the request names."""
    context, tenant = context_of(request), tenant_of(request)
    with body_of(request) as body:
        wanted = parsed(ReplayRequest, await json_body(request, body, limit=MAX_BODY_BYTES)).event_ids
    return answer(await replay_letters(context, tenant, wanted), 202)


async def replay_letters(context: Context, tenant: str, wanted: Collection[str] | None) -> Replayed:
    """Send dead letters again: those whose event ids are given, or the newest 1,000."""

    async def newest() -> list[Delivery]:
        return (await context.stores.deliveries.dead_letters(tenant, limit=MAX_REPLAYED, after=""))[0]

    dead: list[Delivery] = await context.shared.get(tenant, "newest dead letters", newest)
    refs = [letter.ref for letter in dead if wanted is None or letter.ref.event_id in wanted]
    again = await map_bounded(refs, lambda ref: _replay(context, ref))
    return Replayed(replayed=[delivery.ref.event_id for delivery in again if delivery is not None])


async def test(request: Request) -> Response:
    """Send a signed test event to a receiver and wait for its response for a limited time."""
    context, tenant = context_of(request), tenant_of(request)
    with body_of(request) as body:
        url = parsed(WebhookTestRequest, await json_body(request, body, limit=MAX_BODY_BYTES)).url
    tested = await try_receiver(context, tenant, url)
    return answer(tested, 200 if tested.attempts else 202)


async def try_receiver(context: Context, tenant: str, url: str) -> DeliveryView:
    """Send a signed test event and wait for the response for a limited time. Raises `Problem`."""
    await check_receiver(context.services.receivers, tenant, url, "/url")
    with context.webhook_tests.counted(tenant):
        await Quotas(context.services, tenant).admit_targets({url})
        # A disabled receiver is enabled first: the deliverer would dead-letter its test instead of sending it.
        await context.stores.endpoints.change(tenant, url, lambda endpoint: endpoint.enabled())
        ref = await context.stores.deliveries.test(tenant, url, str(uuid.uuid4()))
        context.stores.signal.ring(OUTBOX_TOPIC)
        tested = await context.stores.deliveries.attempted(ref, timeout_s=context.config.webhook_test_wait_s)
    return delivery_view(tested)


async def endpoints(request: Request) -> Response:
    async def all_of_them() -> EndpointList:
        found = await context_of(request).stores.endpoints.all(tenant_of(request))
        return EndpointList(endpoints=[endpoint_view(endpoint) for endpoint in found])

    return await shared_answer(request, all_of_them)


async def event_schema(request: Request) -> Response:
    """Return the JSON Schema of an event type."""
    try:
        # The `$id` uses only the configured URL: a public response may be cached, so it must not repeat a Host header.
        document = _schema(request.path_params["type"], (context_of(request).config.public_url or "").rstrip("/"))
    except KeyError:
        raise Problem("not-found", "there is no event of this type") from None
    return document.response(request)


@functools.cache  # both arguments have few values: an unknown type raises, and the base comes from the configuration
def _schema(kind: str, base: str) -> Document:
    return Document.of_json(schema(kind, base), "application/schema+json")


async def keys(request: Request) -> Response:
    return answer(WebhookKeys(keys=list(context_of(request).config.webhook_public_keys)))


async def _replay(context: Context, ref: EventRef) -> Delivery | None:
    """Enable the receiver and queue the event again. Returns None for an event without a delivery."""
    stored = await context.stores.deliveries.find(ref)
    if stored is None:
        return None
    # The receiver is enabled first: a deliverer that reads a disabled one in between would dead-letter the event.
    await context.stores.endpoints.change(ref.tenant, stored.record.url, lambda endpoint: endpoint.enabled())
    again = await context.stores.deliveries.replay(ref)
    context.stores.signal.ring(OUTBOX_TOPIC)
    return again


def letters_after(request: Request, tenant: str) -> str:
    """Return the key that the query parameter `cursor` names; empty for the first page. Raises `Problem`."""
    cursor = request.query_params.get("cursor")
    if cursor is None:
        return ""
    if not DEAD_LETTER_ENTRY.fullmatch(cursor):
        raise Problem("bad-cursor", "this cursor was not issued by this list")
    # The cursor is only the last part of a key, so it cannot lead into the list of another tenant.
    return dead_letters_prefix(tenant) + cursor


def letters_cursor(last: str | None) -> str | None:
    """Return the cursor behind the last key of a page; None if there are no more."""
    return None if last is None else last.rsplit("/", 1)[-1]


OPERATIONS = (
    Operation(
        deliveries,
        "list_deliveries",
        "get",
        "/v1/jobs/{job_id}/deliveries",
        "How the delivery of the job's events went",
        {200: ("one page: events that were tried, oldest first, each with its attempts", DeliveryList)},
        parameters=(ID, *PAGE),
        refusals=("unknown-job", "job-gone", "invalid-parameter", "bad-cursor"),
    ),
    Operation(
        redeliver,
        "redeliver",
        "post",
        "/v1/jobs/{job_id}/deliveries/{event_id}/redeliver",
        "Send an event once more, with the same id",
        {202: ("it is sent again", DeliveryView)},
        parameters=(ID, Parameter("event_id", "path", {"type": "string"}, "the event")),
        refusals=("unknown-job", "job-gone", "unknown-event"),
    ),
    Operation(
        dead_letters,
        "list_dead_letters",
        "get",
        "/v1/dead-letters",
        "Events that were given up, newest first",
        {200: ("one page", DeadLetterList)},
        parameters=(*PAGE,),
        refusals=("invalid-parameter", "bad-cursor"),
    ),
    Operation(
        replay,
        "replay_dead_letters",
        "post",
        "/v1/dead-letters/replay",
        "Send dead letters again, with the same ids",
        {202: ("these are sent again", Replayed)},
        request=ReplayRequest,
        example={},
        refusals=("malformed-json", "request-timeout", "request-too-large", "validation-error"),
    ),
    Operation(
        test,
        "test_webhook",
        "post",
        "/v1/webhooks/test",
        "Send a signed test event to a receiver",
        {
            200: ("what came of it", DeliveryView),
            202: ("it was not tried within the time that this waits", DeliveryView),
        },
        request=WebhookTestRequest,
        example={"url": "https://example.com/hooks/comfyui"},
        refusals=(
            "malformed-json",
            "request-timeout",
            "request-too-large",
            "validation-error",
            "webhook-refused",
            "too-many-webhook-targets",
        ),
    ),
    Operation(
        endpoints,
        "list_endpoints",
        "get",
        "/v1/webhooks/endpoints",
        "How each receiver has been doing",
        {200: ("the receivers of the last 30 days", EndpointList)},
    ),
    Operation(
        event_schema,
        "get_event_schema",
        "get",
        "/schemas/{type}.json",
        "The JSON Schema of an event's data",
        {200: ("the schema", None)},
        parameters=(
            Parameter("type", "path", {"type": "string", "examples": ["comfyui.job.completed.v1"]}, "the event's type"),
        ),
        refusals=("not-found",),
        is_open=True,
    ),
    Operation(
        keys,
        "get_webhook_keys",
        "get",
        "/.well-known/webhook-keys.json",
        "The public keys of ed25519 signatures",
        {200: ("the keys, none where only secrets are used", WebhookKeys)},
        is_open=True,
    ),
)

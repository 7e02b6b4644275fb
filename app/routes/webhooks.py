"""Webhooks: deliveries, dead letters, tests and receivers; event schemas and verification keys."""

import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.problems import Problem
from app.routes.context import (
    Context,
    answer,
    body_of,
    context_of,
    json_body,
    shared_answer,
    tenant_of,
    whole_number,
)
from app.submission.preparation import check_receiver, parsed
from app.submission.quotas import Quotas
from app.views.events import schema
from app.views.webhooks import delivery_view, endpoint_view
from app.wire.base import MAX_REPLAYED
from app.wire.webhooks import (
    DeadLetterList,
    DeliveryList,
    EndpointList,
    Replayed,
    ReplayRequest,
    WebhookKeys,
    WebhookTestRequest,
)
from storage.concurrency import map_bounded
from storage.index_keys import DEAD_LETTER_ENTRY, EventRef, dead_letters_prefix
from storage.jobs.index import event_ref
from storage.signal import OUTBOX_TOPIC
from storage.webhooks.deliveries import Delivery

MAX_BODY_BYTES = 256 * 1024


async def deliveries(request: Request) -> Response:
    """List the deliveries of the job's events. Progress events that a newer one replaced are not listed."""
    context, tenant, job_id = context_of(request), tenant_of(request), request.path_params["job_id"]

    async def found() -> DeliveryList:
        record = (await context.stores.jobs.read(tenant, job_id)).record
        deliveries = await context.stores.deliveries.of(event_ref(record, event) for event in record.events)
        return DeliveryList(deliveries=[delivery_view(delivery) for delivery in deliveries])

    return await shared_answer(request, found)


async def redeliver(request: Request) -> Response:
    """Send an event again, whatever its delivery's status. A disabled receiver is enabled."""
    context, tenant, job_id = context_of(request), tenant_of(request), request.path_params["job_id"]
    record = (await context.stores.jobs.read(tenant, job_id)).record
    refs = {ref.event_id: ref for ref in (event_ref(record, event) for event in record.events)}
    ref = refs.get(request.path_params["event_id"])
    again = await _replay(context, ref) if ref is not None else None
    if again is None:
        raise Problem("unknown-event", "the job has no delivery of this event yet")
    return answer(delivery_view(again), 202)


async def dead_letters(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    limit = whole_number(request, "limit", default=50, low=1, high=context.config.max_page)
    after = _after(request, tenant)

    async def letters() -> DeadLetterList:
        found, last = await context.stores.deliveries.dead_letters(tenant, limit=limit, after=after)
        next_cursor = None if last is None else last.rsplit("/", 1)[-1]
        return DeadLetterList(dead_letters=[delivery_view(delivery) for delivery in found], next_cursor=next_cursor)

    return await shared_answer(request, letters)


async def replay(request: Request) -> Response:
    """Send dead letters again: the newest 1,000, or those of them that the request names."""
    context, tenant = context_of(request), tenant_of(request)
    with body_of(request) as body:
        wanted = parsed(ReplayRequest, await json_body(request, body, limit=MAX_BODY_BYTES)).event_ids
    dead, _ = await context.stores.deliveries.dead_letters(tenant, limit=MAX_REPLAYED, after="")
    refs = [letter.ref for letter in dead if wanted is None or letter.ref.event_id in wanted]
    again = await map_bounded(refs, lambda ref: _replay(context, ref))
    return answer(Replayed(replayed=[delivery.ref.event_id for delivery in again if delivery is not None]), 202)


async def test(request: Request) -> Response:
    """Send a signed test event to a receiver and wait for its response for a limited time."""
    context, tenant = context_of(request), tenant_of(request)
    with body_of(request) as body:
        url = parsed(WebhookTestRequest, await json_body(request, body, limit=MAX_BODY_BYTES)).url
    await check_receiver(context.services.receivers, tenant, url, "/url")
    await Quotas(context.services, context.config, tenant).admit_targets({url})
    await context.stores.endpoints.change(tenant, url, lambda endpoint: endpoint.enabled())
    ref = await context.stores.deliveries.test(tenant, url, str(uuid.uuid4()))
    context.stores.signal.ring(OUTBOX_TOPIC)
    tested = await context.stores.deliveries.attempted(ref, patience_s=context.config.webhook_test_wait_s)
    return answer(delivery_view(tested), 200 if tested.attempts else 202)


async def endpoints(request: Request) -> Response:
    async def all_of_them() -> EndpointList:
        found = await context_of(request).stores.endpoints.all(tenant_of(request))
        return EndpointList(endpoints=[endpoint_view(endpoint) for endpoint in found])

    return await shared_answer(request, all_of_them)


async def event_schema(request: Request) -> Response:
    """Return the JSON Schema of an event type."""
    try:
        # The `$id` uses only the configured URL: a public response may be cached, so it must not repeat a Host header.
        document = schema(request.path_params["type"], (context_of(request).config.public_url or "").rstrip("/"))
    except KeyError:
        raise Problem("not-found", "there is no event of this type") from None
    return JSONResponse(document, media_type="application/schema+json")


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


def _after(request: Request, tenant: str) -> str:
    cursor = request.query_params.get("cursor")
    if cursor is None:
        return ""
    if not DEAD_LETTER_ENTRY.fullmatch(cursor):
        raise Problem("bad-cursor", "this cursor was not issued by this list")
    return dead_letters_prefix(tenant) + cursor


ROUTES = (
    Route("/v1/jobs/{job_id}/deliveries", deliveries, methods=["GET"], name="list_deliveries"),
    Route("/v1/jobs/{job_id}/deliveries/{event_id}/redeliver", redeliver, methods=["POST"], name="redeliver"),
    Route("/v1/dead-letters", dead_letters, methods=["GET"], name="list_dead_letters"),
    Route("/v1/dead-letters/replay", replay, methods=["POST"], name="replay_dead_letters"),
    Route("/v1/webhooks/test", test, methods=["POST"], name="test_webhook"),
    Route("/v1/webhooks/endpoints", endpoints, methods=["GET"], name="list_endpoints"),
    Route("/schemas/{type}.json", event_schema, methods=["GET"], name="get_event_schema"),
    Route("/.well-known/webhook-keys.json", keys, methods=["GET"], name="get_webhook_keys"),
)

"""Receivers of webhooks and how they have been doing, dead letters with their replay, and a test of a receiver."""

import hashlib

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import Context, context_of, tenant_of, whole_number
from app.api.webhooks import (
    delivery_view,
    endpoint_view,
    letters_after,
    letters_cursor,
    redeliver_event,
    replay_letters,
    try_receiver,
)
from app.fields import MAX_REPLAYED, WebhookUrl
from app.heavy import off_loop
from app.problems import Problem
from app.ui.pages import render
from app.ui.routing import action, form, is_fragment, page, see_other
from storage.concurrency import both
from storage.webhooks.deliveries import Delivery
from storage.webhooks.endpoints import Endpoint

LETTERS = 50
_URL: TypeAdapter[str] = TypeAdapter(WebhookUrl)


async def show(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    after = letters_after(request, tenant)
    limit = whole_number(request, "limit", default=LETTERS, low=1, high=context.config.max_page)

    async def read() -> tuple[list[Delivery], str | None]:
        return await context.stores.deliveries.dead_letters(tenant, limit=limit, after=after)

    endpoints, (dead, more) = await both(
        _endpoints(context, tenant), context.shared.get(tenant, ("ui", "dead letters", limit, after), read)
    )

    def rendered() -> Response:
        return render(
            request,
            "webhooks.html",
            endpoints=[(endpoint_view(endpoint), digest_of(endpoint.url)) for endpoint in endpoints],
            letters=[(delivery_view(one), one.owner_id if one.kind == "job" else None) for one in dead],
            next_cursor=letters_cursor(more),
            is_first=not after,
            most_replayed=MAX_REPLAYED,
            now=context.stores.clock.now(),
        )

    # In a thread, because a page of dead letters may have thousands of attempts.
    return await off_loop(rendered)


async def test(request: Request) -> Response:
    """Send a test event to the URL of the form, or to a receiver that is known, which enables a disabled one."""
    tested = await try_receiver(context_of(request), tenant_of(request), await _receiver(request))
    if not is_fragment(request):
        return see_other("/webhooks")
    return render(request, "fragments/webhook_test.html", tested=tested)


async def _endpoints(context: Context, tenant: str) -> list[Endpoint]:
    async def read() -> list[Endpoint]:
        return await context.stores.endpoints.all(tenant)

    found: list[Endpoint] = await context.shared.get(tenant, ("ui", "endpoints"), read)
    return found


async def _receiver(request: Request) -> str:
    """Return the URL to test. Raises `Problem`."""
    fields = form(request)
    if digest := fields.get("receiver"):
        known = await _endpoints(context_of(request), tenant_of(request))
        url = next((one.url for one in known if digest_of(one.url) == digest), None)
        if url is None:
            raise Problem("not-found", "this receiver is not known any more: enter its URL")
        return url
    try:
        return _URL.validate_python(fields.get("url", "").strip())
    except ValidationError as error:
        detail = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise Problem("validation-error", f"the receiver: {detail}") from None


def digest_of(url: str) -> str:
    """Return what names a receiver in a form. Its URL may contain a token, which no page repeats."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


async def replay(request: Request) -> Response:
    """Send one dead letter again, or the newest ones."""
    context, tenant, fields = context_of(request), tenant_of(request), form(request)
    event_id, job_id = fields.get("event_id"), fields.get("job_id")
    if event_id is not None and job_id is not None:
        # Found by its job: the list of dead letters would be read for it, and has only the newest.
        await redeliver_event(context, tenant, job_id, event_id)
    else:
        again = await replay_letters(context, tenant, None if event_id is None else [event_id])
        if event_id is not None and not again.replayed:
            raise Problem("unknown-event", "this dead letter is not among the newest any more")
    return see_other("/webhooks")


ROUTES = (
    page("/webhooks", show, "show_webhooks", holds_documents=True),
    action("/webhooks/test", test, "test_webhook"),
    action("/webhooks/replay", replay, "replay_dead_letters"),
)

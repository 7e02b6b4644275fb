"""Receivers of webhooks and how they have been doing, dead letters with their replay, and a test of a receiver."""

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import context_of, tenant_of
from app.api.webhooks import delivery_view, endpoint_view, replay_letters, try_receiver
from app.fields import WebhookUrl
from app.problems import Problem
from app.ui.pages import render
from app.ui.routing import action, form, is_fragment, page, see_other
from storage.concurrency import both

LETTERS = 50
_URL: TypeAdapter[str] = TypeAdapter(WebhookUrl)


async def show(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    endpoints, (dead, more) = await both(
        context.stores.endpoints.all(tenant), context.stores.deliveries.dead_letters(tenant, limit=LETTERS, after="")
    )
    return render(
        request,
        "webhooks.html",
        endpoints=[endpoint_view(endpoint) for endpoint in endpoints],
        letters=[(delivery_view(one), one.owner_id if one.kind == "job" else None) for one in dead],
        has_more=more is not None,
    )


async def test(request: Request) -> Response:
    try:
        url = _URL.validate_python(form(request).get("url", "").strip())
    except ValidationError as error:
        detail = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise Problem("validation-error", f"the receiver: {detail}") from None
    tested = await try_receiver(context_of(request), tenant_of(request), url)
    if not is_fragment(request):
        return see_other("/webhooks")
    return render(request, "fragments/webhook_test.html", tested=tested)


async def replay(request: Request) -> Response:
    event_id = form(request).get("event_id")
    await replay_letters(context_of(request), tenant_of(request), None if event_id is None else [event_id])
    return see_other("/webhooks")


ROUTES = (
    page("/webhooks", show, "show_webhooks"),
    action("/webhooks/test", test, "test_webhook"),
    action("/webhooks/replay", replay, "replay_dead_letters"),
)

"""The batches: newest first, with how many of their jobs are in which status."""

from starlette.requests import Request
from starlette.responses import Response

from app.api.batches import batch_row, cancel_batch
from app.api.context import base_url, context_of, tenant_of
from app.ui.pages import render
from app.ui.routing import action, is_fragment, page, see_other

PAGE = 20


async def show(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    cursor = request.query_params.get("cursor") or None
    listed = await context.stores.batch_pages.page(tenant, limit=PAGE, cursor=cursor)
    return render(
        request,
        "fragments/batches.html" if is_fragment(request) else "batches.html",
        batches=[batch_row(batch, base_url(request)) for batch in listed.rows],
        next_cursor=listed.next_cursor,
        is_first=cursor is None,
        now=context.stores.clock.now(),
    )


async def cancel(request: Request) -> Response:
    await cancel_batch(context_of(request), tenant_of(request), request.path_params["batch_id"])
    return see_other("/batches")


ROUTES = (
    page("/batches", show, "list_batches"),
    action("/batches/{batch_id}/cancel", cancel, "cancel_batch"),
)

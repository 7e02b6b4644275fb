"""The batches: newest first, with how many of their jobs are in which status, and the jobs of each."""

from starlette.requests import Request
from starlette.responses import Response

from app.api.batches import batch_row, batch_view, cancel_batch
from app.api.context import base_url, context_of, tenant_of
from app.batch_state import BatchState, read_state
from app.heavy import off_loop
from app.ui.pages import render
from app.ui.routing import action, form, is_fragment, page, see_other
from storage.batch_pages import CountedBatch
from storage.pages import Page

PAGE = 20


async def show(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    cursor = request.query_params.get("cursor") or None

    async def read() -> Page[CountedBatch]:
        return await context.stores.batch_pages.page(tenant, limit=PAGE, cursor=cursor)

    listed: Page[CountedBatch] = await context.shared.get(tenant, ("ui", "batches", cursor), read)
    return render(
        request,
        "fragments/batches.html" if is_fragment(request) else "batches.html",
        batches=[batch_row(batch, base_url(request)) for batch in listed.rows],
        next_cursor=listed.next_cursor,
        is_first=cursor is None,
        now=context.stores.clock.now(),
    )


async def show_one(request: Request) -> Response:
    """Show the jobs of a batch in the order of its request, or those of one status."""
    context, tenant, batch_id = context_of(request), tenant_of(request), request.path_params["batch_id"]
    wanted = request.query_params.get("status", "")

    async def read() -> BatchState:
        return await read_state(context.stores.batches, tenant, batch_id)

    state: BatchState = await context.shared.get(tenant, ("batch", batch_id), read)

    def rendered() -> Response:
        batch = batch_view(state.record, state.statuses, base_url(request))
        members = [(number, job) for number, job in enumerate(batch.jobs, 1) if wanted in ("", job.status)]
        template = "fragments/batch.html" if is_fragment(request) else "batch.html"
        return render(request, template, batch=batch, members=members, wanted=wanted)

    # In a thread, because there may be a thousand jobs.
    return await off_loop(rendered)


async def cancel(request: Request) -> Response:
    batch_id = request.path_params["batch_id"]
    await cancel_batch(context_of(request), tenant_of(request), batch_id)
    return see_other(f"/batches/{batch_id}" if form(request).get("from") == "batch" else "/batches")


ROUTES = (
    page("/batches", show, "list_batches"),
    page("/batches/{batch_id}", show_one, "show_batch"),
    action("/batches/{batch_id}/cancel", cancel, "cancel_batch"),
)

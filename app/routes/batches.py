"""/v1/batches: many jobs in one request, accepted together or not at all."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.outcome import outcome_of
from app.routes.context import (
    NO_STORE,
    REPLAYED,
    answer,
    base_url,
    body_of,
    check_is_json,
    context_of,
    identity_of,
    json_body,
    principal_of,
    shared_answer,
    tenant_of,
)
from app.submission.batch_acceptance import BatchAcceptance
from app.submission.batch_preparation import prepared_batch
from app.submission.preparation import LONG_IN_BATCHES, Preparation, parsed
from app.views.jobs import batch_view
from app.wire.batches import BatchRequest, BatchView
from storage.batches import StoredBatch


async def submit(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    check_is_json(request)
    with body_of(request) as body:
        limit = context.config.max_request_bytes
        document = await json_body(request, body, limit=limit, keep=LONG_IN_BATCHES)
        acceptance, identity = BatchAcceptance(context.services, context.config, tenant), identity_of(request, body)
        accepted = await acceptance.replayed(identity)
        if accepted is None:
            preparation = Preparation(context.services, context.config, tenant, body, principal_of(request).graphs)
            wanted = await body.aside(parsed, BatchRequest, document)
            prepared = await prepared_batch(preparation, wanted, context.config, request.is_disconnected)
            accepted = await acceptance.batch(prepared, identity)
    outcome_of(request.scope).jobs_accepted = 0 if accepted.is_replay else len(accepted.stored.record.job_ids)
    headers = {"location": f"{base_url(request)}/v1/batches/{accepted.stored.record.batch_id}"}
    if accepted.is_replay:
        headers[REPLAYED] = "true"
    return await _batch_answer(request, accepted.stored, 200 if accepted.is_replay else 202, headers)


async def show(request: Request) -> Response:
    async def view() -> BatchView:
        stored = await context_of(request).stores.batches.read(tenant_of(request), request.path_params["batch_id"])
        return await _batch_view(request, stored)

    return await shared_answer(request, view)


async def cancel(request: Request) -> Response:
    """Cancel the batch: queued jobs fail at once, running jobs are stopped, and finished jobs are unchanged."""
    batches = context_of(request).stores.batches
    stored = await batches.cancel(await batches.read(tenant_of(request), request.path_params["batch_id"]))
    return await _batch_answer(request, stored, 202)


async def _batch_answer(
    request: Request, stored: StoredBatch, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return answer(await _batch_view(request, stored), status, NO_STORE | (headers or {}))


async def _batch_view(request: Request, stored: StoredBatch) -> BatchView:
    statuses = await context_of(request).stores.batches.statuses(stored.record)
    return batch_view(stored.record, statuses, base_url(request))


ROUTES = (
    Route("/v1/batches", submit, methods=["POST"], name="submit_batch"),
    Route("/v1/batches/{batch_id}", show, methods=["GET"], name="get_batch"),
    Route("/v1/batches/{batch_id}", cancel, methods=["DELETE"], name="cancel_batch"),
)

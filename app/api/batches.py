"""/v1/batches: many jobs in one request, accepted together or not at all."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import (
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
from app.fields import Moment, ResponseBody
from app.operations import BATCH_ID, KEY, SUBMISSION_PROBLEMS, WORKFLOW, Operation
from app.outcome import outcome_of
from app.submission.batches import BatchAcceptance, prepared_batch
from app.submission.preparation import LONG_IN_BATCHES, Preparation, parsed
from app.submission.request import BatchRequest
from storage.batches import BatchRecord, StoredBatch
from storage.jobs.record import Status


class BatchUrls(ResponseBody):
    self: str
    cancel: str


class BatchJob(ResponseBody):
    """`removed` once its time was over."""

    job_id: str
    status: Status | Literal["removed"]
    has_warnings: bool = Field(description="whether it was accepted with `warnings`: some of its outputs do not run")


class BatchView(ResponseBody):
    """`counts` by status, `removed` included; `status` is finished when every job is over."""

    batch_id: str
    status: Literal["queued", "running", "finished"]
    created_at: Moment
    cancel_requested_at: Moment | None
    total: int
    counts: dict[str, int]
    jobs: list[BatchJob] = Field(description="in the order of the request")
    metadata: dict[str, str]
    urls: BatchUrls


def batch_view(record: BatchRecord, statuses: Mapping[str, Status | None], base: str) -> BatchView:
    """Return the batch. `statuses` maps job ids to statuses, None for a removed job."""
    warned = {record.job_ids[position] for position in record.warned}
    jobs = [
        BatchJob(job_id=job_id, status=status or "removed", has_warnings=job_id in warned)
        for job_id, status in statuses.items()
    ]
    counts = Counter(str(job.status) for job in jobs)
    url = f"{base}/v1/batches/{record.batch_id}"
    return BatchView(
        batch_id=record.batch_id,
        status=_batch_status(counts),
        created_at=record.created_at,
        cancel_requested_at=record.cancel_requested_at,
        total=len(jobs),
        counts={status: counts[status] for status in (*map(str, Status), "removed")},
        jobs=jobs,
        metadata=record.metadata,
        urls=BatchUrls(self=url, cancel=url),
    )


def _batch_status(counts: Mapping[str, int]) -> Literal["queued", "running", "finished"]:
    if not counts[Status.QUEUED] and not counts[Status.RUNNING]:
        return "finished"
    return "queued" if counts[Status.QUEUED] == sum(counts.values()) else "running"


async def submit(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    check_is_json(request)
    with body_of(request) as body:
        limit = context.config.max_request_bytes
        document = await json_body(request, body, limit=limit, keep=LONG_IN_BATCHES)
        acceptance, identity = BatchAcceptance(context.services, tenant), identity_of(request, body)
        accepted = await acceptance.replayed(identity)
        if accepted is None:
            preparation = Preparation(context.services, tenant, body, principal_of(request).graphs)
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


OPERATIONS = (
    Operation(
        submit,
        "submit_batch",
        "post",
        "/v1/batches",
        "Submit up to 1,000 jobs at once, all or none",
        {
            202: ("stored: each job will end in exactly one way", BatchView),
            200: ("an earlier request with this Idempotency-Key had made it", BatchView),
        },
        parameters=(KEY,),
        request=BatchRequest,
        example={
            "workflow": WORKFLOW,
            "input_sets": [[{"node": "1", "field": "color", "value": color}] for color in (255, 65280)],
        },
        refusals=(*SUBMISSION_PROBLEMS, "batch-ambiguous", "too-many-jobs", "batch-gone"),
    ),
    Operation(
        show,
        "get_batch",
        "get",
        "/v1/batches/{batch_id}",
        "Get a batch: how many jobs are in which status",
        {200: ("the batch", BatchView)},
        parameters=(BATCH_ID,),
        refusals=("unknown-batch", "batch-gone"),
    ),
    Operation(
        cancel,
        "cancel_batch",
        "delete",
        "/v1/batches/{batch_id}",
        "Cancel every job of a batch that is not over",
        {202: ("the batch; jobs that run are being stopped", BatchView)},
        parameters=(BATCH_ID,),
        refusals=("unknown-batch", "batch-gone"),
    ),
)

"""/v1/batches: many jobs in one request, accepted together or not at all."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import (
    NO_STORE,
    REPLAYED,
    Context,
    base_url,
    body_of,
    check_is_json,
    context_of,
    identity_of,
    json_body,
    long_poll,
    principal_of,
    shared_answer,
    shared_body,
    tenant_of,
    wait_seconds,
    whole_number,
)
from app.batch_state import BatchState, read_state, state_of
from app.fields import Moment, ResponseBody
from app.operations import (
    BATCH_ID,
    KEY,
    KNOWN,
    SUBMISSION_PROBLEMS,
    WORKFLOW,
    Operation,
    page_parameters,
    wait_parameter,
)
from app.outcome import outcome_of
from app.submission.batches import BatchAcceptance, prepared_batch
from app.submission.foreign import batch_form, relocated
from app.submission.preparation import LONG_IN_BATCHES, Preparation, parsed
from app.submission.request import BatchRequest
from storage.batch_pages import CountedBatch
from storage.batch_record import BatchRecord
from storage.jobs.record import Status
from storage.keys import DEFAULT_POOL

BatchStatus = Literal["queued", "running", "finished"]
REMOVED: Literal["removed"] = "removed"
"""The status, in a batch, of a job that was removed."""
DEFAULT_LIMIT = 20
"""Batches of a page, unless a request names a `limit`. Each of them costs a GET and a LIST."""


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
    status: BatchStatus
    created_at: Moment
    cancel_requested_at: Moment | None
    total: int
    counts: dict[str, int]
    jobs: list[BatchJob] = Field(description="in the order of the request")
    metadata: dict[str, str]
    urls: BatchUrls


class BatchRow(ResponseBody):
    """A batch without its jobs."""

    batch_id: str
    status: BatchStatus
    created_at: Moment
    cancel_requested_at: Moment | None
    total: int
    counts: dict[str, int] = Field(description="by status; a job that is just changing may count as it was before")
    metadata: dict[str, str]
    urls: BatchUrls


class BatchList(ResponseBody):
    batches: list[BatchRow]
    next_cursor: str | None = Field(description="pass it as cursor for the next page")


def batch_row(batch: CountedBatch, base: str) -> BatchRow:
    record, counts = batch.record, Counter({str(status or REMOVED): n for status, n in batch.counts.items()})
    return BatchRow(
        batch_id=record.batch_id,
        status=_batch_status(counts),
        created_at=record.created_at,
        cancel_requested_at=record.cancel_requested_at,
        total=len(record.job_ids),
        counts=_shown(counts),
        metadata=record.metadata,
        urls=_urls(record, base),
    )


def batch_view(record: BatchRecord, statuses: Mapping[str, Status | None], base: str) -> BatchView:
    """Return the batch. `statuses` maps job ids to statuses, None for a removed job."""
    warned = {record.job_ids[position] for position in record.warned}
    jobs = [
        BatchJob(job_id=job_id, status=status or REMOVED, has_warnings=job_id in warned)
        for job_id, status in statuses.items()
    ]
    counts = Counter(str(job.status) for job in jobs)
    return BatchView(
        batch_id=record.batch_id,
        status=_batch_status(counts),
        created_at=record.created_at,
        cancel_requested_at=record.cancel_requested_at,
        total=len(jobs),
        counts=_shown(counts),
        jobs=jobs,
        metadata=record.metadata,
        urls=_urls(record, base),
    )


def _urls(record: BatchRecord, base: str) -> BatchUrls:
    url = f"{base}/v1/batches/{record.batch_id}"
    return BatchUrls(self=url, cancel=url)


def _shown(counts: Counter[str]) -> dict[str, int]:
    return {status: counts[status] for status in (*map(str, Status), REMOVED)}


def _batch_status(counts: Counter[str]) -> BatchStatus:
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
            trust = principal_of(request).graphs
            preparation = Preparation(context.services, tenant, body, trust, takes_editor_files=True)
            form = await body.aside(partial(batch_form, most_jobs=context.config.most_jobs_at_once), document)
            with relocated(form.moves):
                wanted = await body.aside(parsed, BatchRequest, form.document)
                prepared = await prepared_batch(preparation, wanted, context.config, request.is_disconnected)
            accepted = await acceptance.batch(prepared, identity)
    outcome_of(request.scope).jobs_accepted = 0 if accepted.is_replay else len(accepted.stored.record.job_ids)
    headers = {"location": f"{base_url(request)}/v1/batches/{accepted.stored.record.batch_id}"}
    if accepted.is_replay:
        headers[REPLAYED] = "true"
    state = await state_of(context.stores.batches, accepted.stored)
    return await _batch_answer(request, state, 200 if accepted.is_replay else 202, headers)


async def page(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    limit = whole_number(request, "limit", default=DEFAULT_LIMIT, low=1, high=context.config.max_page)
    cursor, base = request.query_params.get("cursor"), base_url(request)

    async def rows() -> BatchList:
        listed = await context.stores.batch_pages.page(tenant, limit=limit, cursor=cursor)
        return BatchList(batches=[batch_row(batch, base) for batch in listed.rows], next_cursor=listed.next_cursor)

    return await shared_answer(request, rows)


async def show(request: Request) -> Response:
    """Return the batch. `wait` delays the response until it is finished, or differs from If-None-Match's version."""
    context, tenant, batch_id = context_of(request), tenant_of(request), request.path_params["batch_id"]
    wait_s, known = wait_seconds(request), request.headers.get("if-none-match")

    async def read() -> BatchState:
        return context.batch_watch.interned(await read_state(context.stores.batches, tenant, batch_id))

    state: BatchState = await context.shared.get(tenant, ("batch", batch_id), read)
    if wait_s is not None:
        is_wanted = partial(_is_news, known)
        state = await long_poll(request, partial(context.batch_watch.until, state, is_wanted, wait_s))
    if known == state.etag:
        return Response(status_code=304, headers={"etag": state.etag})
    return await _batch_answer(request, state)


def _is_news(known: str | None, state: BatchState) -> bool:
    return state.is_finished if known is None else state.etag != known


async def cancel(request: Request) -> Response:
    state = await cancel_batch(context_of(request), tenant_of(request), request.path_params["batch_id"])
    return await _batch_answer(request, state, 202)


async def cancel_batch(context: Context, tenant: str, batch_id: str) -> BatchState:
    """Cancel the batch: queued jobs fail at once, running jobs are stopped, and finished jobs are unchanged.

    Concurrent requests for one batch share a cancellation. It goes on when their clients disconnect.
    """

    async def cancelled() -> BatchState:
        batches = context.stores.batches
        stored = await batches.cancel(await batches.read(tenant, batch_id))
        pools = (DEFAULT_POOL, *context.config.gpu_pools)
        await context.services.withdraw_tickets(*pools, ended=set(stored.record.job_ids))
        return await state_of(batches, stored)

    state: BatchState = await context.shared.get(tenant, ("cancelled batch", batch_id), cancelled)
    return state


async def _batch_answer(
    request: Request, state: BatchState, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    record, base = state.record, base_url(request)
    key = ("batch", record.batch_id, state.etag)
    body = await shared_body(request, key, lambda: batch_view(record, state.statuses, base))
    return Response(body, status, {"etag": state.etag} | NO_STORE | (headers or {}), "application/json")


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
        page,
        "list_batches",
        "get",
        "/v1/batches",
        "List batches, newest first",
        {200: ("one page", BatchList)},
        parameters=page_parameters(DEFAULT_LIMIT),
        refusals=("invalid-parameter", "bad-cursor"),
    ),
    Operation(
        show,
        "get_batch",
        "get",
        "/v1/batches/{batch_id}",
        "Get a batch, or wait for it: how many jobs are in which status",
        {200: ("the batch", BatchView), 304: ("it is still the version that you know", None)},
        parameters=(BATCH_ID, wait_parameter("every job is over"), KNOWN),
        refusals=("invalid-parameter", "unknown-batch", "batch-gone"),
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

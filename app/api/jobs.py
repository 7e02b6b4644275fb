"""/v1/jobs: get, list, cancel and remove jobs; a job's outputs, log and workflow."""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from pydantic import Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from app.api.context import (
    NO_STORE,
    Context,
    answer,
    base_url,
    context_of,
    long_poll,
    shared_answer,
    shared_body,
    tenant_of,
    wait_seconds,
    whole_number,
)
from app.api.job_filter import FILTERS, job_filter
from app.api.job_view import (
    QUICKLY_SHOWN,
    CostView,
    JobView,
    OutputUrl,
    cost_view,
    job_view,
    output_url,
)
from app.fields import Moment, ResponseBody
from app.numbers import whole
from app.operations import ID, KNOWN, PAGE, Operation, Parameter, wait_parameter
from app.problems import Problem
from storage.errors import JobGone, PreconditionFailed
from storage.jobs.filters import JobFilter
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import StoredJob
from storage.pages import Page

Row = TypeVar("Row")


class JobRow(ResponseBody):
    job_id: str
    status: Status
    created_at: Moment
    completed_at: Moment | None
    progress: int
    error_code: str | None = Field(description="why it failed, as `error_detail.code`; `cancelled` if it was cancelled")
    metadata: dict[str, str]
    workflow_name: str | None = Field(description="the named workflow that it runs; null for a graph of your own")
    batch_id: str | None
    has_warnings: bool = Field(description="whether some of its outputs do not run")
    workflow_shape: str = Field(description="the same for workflows of the same classes and links")
    cost: CostView


class JobList(ResponseBody):
    jobs: list[JobRow]
    next_cursor: str | None = Field(
        description="pass it as cursor for the next page; with a filter, a page that is not the last may be short"
    )


def job_row(record: JobRecord) -> JobRow:
    return JobRow(
        job_id=record.job_id,
        status=record.status,
        created_at=record.created_at,
        completed_at=record.completed_at,
        progress=record.progress,
        error_code=record.error_code,
        metadata=record.metadata,
        workflow_name=record.workflow_name,
        batch_id=record.batch_id,
        has_warnings=bool(record.warnings),
        workflow_shape=record.workflow_shape,
        cost=cost_view(record),
    )


async def show(request: Request) -> Response:
    """Return the job. `wait` delays the response until the job is terminal, or differs from If-None-Match's version."""
    context = context_of(request)
    wait_s = wait_seconds(request)
    stored = await context.stores.jobs.read(tenant_of(request), request.path_params["job_id"])
    known = request.headers.get("if-none-match")
    if wait_s is not None:
        is_wanted = partial(_is_news, known)
        stored = await long_poll(request, partial(context.watch.until, stored, is_wanted, wait_s))
    if known == _etag(stored.record):
        return Response(status_code=304, headers={"etag": known})
    return await job_answer(request, stored, is_awaited=wait_s is not None)


async def page(request: Request) -> Response:
    context = context_of(request)
    limit = whole_number(request, "limit", default=50, low=1, high=context.config.max_page)
    wanted = job_filter(request.query_params, max_metadata_pairs=context.config.max_metadata_pairs)
    cursor = request.query_params.get("cursor")
    tenant = tenant_of(request)

    async def rows() -> JobList:
        listed = await page_of_jobs(context, tenant, job_row, wanted, limit=limit, cursor=cursor)
        return JobList(jobs=list(listed.rows), next_cursor=listed.next_cursor)

    return await shared_answer(request, rows)


async def page_of_jobs(
    context: Context,
    tenant: str,
    row: Callable[[JobRecord], Row],
    wanted: JobFilter,
    *,
    limit: int,
    cursor: str | None,
) -> Page[Row]:
    """Return one page of a tenant's jobs, each as `row` makes it."""
    if wanted.batch_id is not None:
        batch = await context.stores.batches.read(tenant, wanted.batch_id)
        wanted = wanted.in_batch(batch.record.created_at)
    scan = context.config.max_scanned_jobs
    return await context.stores.jobs.page(tenant, row, wanted, limit=limit, cursor=cursor, scan=scan)


async def cancel(request: Request) -> Response:
    context, purge = context_of(request), _flag(request, "purge")
    stored = await cancel_job(context, tenant_of(request), request.path_params["job_id"], purge=purge)
    if stored is None:
        return Response(status_code=204)
    is_done = stored.record.status.is_terminal and not purge
    return await job_answer(request, stored, 200 if is_done else 202)


async def cancel_job(context: Context, tenant: str, job_id: str, *, purge: bool) -> StoredJob | None:
    """Cancel the job: a queued one fails at once, a running one is stopped within `cancel_wait_s`. `purge` removes it.

    Returns None for a job that is removed. The reaper removes a job that has not stopped by then, or whose events are
    still being delivered.
    """
    now = context.stores.clock.now()

    def cancelled(record: JobRecord) -> JobRecord:
        # The retention of 0 is committed with the cancellation: the reaper removes the job if this process does not.
        return record.retain(0).cancel(now=now) if purge else record.cancel(now=now)

    stored = await context.stores.jobs.evolve(tenant, job_id, cancelled)
    if stored.record.status.is_terminal:  # it was queued
        await context.services.withdraw_tickets(stored.record.pool, ended={stored.record.job_id})
    stored = await context.watch.until(stored, lambda record: record.status.is_terminal, context.config.cancel_wait_s)
    # The events are rendered from the record, so it must exist until they are delivered.
    if not purge or not await context.stores.remover.is_free_to_go(stored.record):
        return stored
    await _purge(context, stored)
    return None


async def _purge(context: Context, stored: StoredJob) -> None:
    """Remove a finished job."""
    try:
        await context.stores.remover.purge(stored)
    except PreconditionFailed:
        # Only a removal changes a finished job, so the second attempt on a fresh read meets no further writer.
        with contextlib.suppress(JobGone):
            await context.stores.remover.purge(
                await context.stores.jobs.read(stored.record.tenant, stored.record.job_id)
            )


async def logs(request: Request) -> Response:
    """Return the engine's log as text, of the current attempt or of the requested one."""
    context = context_of(request)
    record = (await context.stores.jobs.read(tenant_of(request), request.path_params["job_id"])).record
    attempt = whole_number(request, "attempt", default=record.attempt, low=1, high=max(1, record.attempt))
    text = await context.stores.logs.read(record.tenant, record.job_id, attempt)
    return PlainTextResponse(text, headers=NO_STORE | {"job-attempt": str(attempt)})


async def output(request: Request) -> Response:
    """Redirect to a fresh presigned URL, or return the URL as JSON with ?redirect=false."""
    context, is_redirect = context_of(request), _flag(request, "redirect", default=True)
    stored = await context.stores.jobs.read(tenant_of(request), request.path_params["job_id"])
    try:
        number = whole(request.path_params["number"], 0, len(stored.record.outputs) - 1)
    except ValueError:
        raise Problem("unknown-output", f"the job has {len(stored.record.outputs)} outputs so far") from None
    signed = output_url(stored.record.outputs[number], context.stores.objects, context.config)
    return RedirectResponse(signed.url, 302, NO_STORE) if is_redirect else answer(signed, headers=NO_STORE)


async def workflow(request: Request) -> Response:
    """Return the graph, or with ?format=editor the file of ComfyUI's editor that it was made of."""
    return Response(await workflow_of_job(request), media_type="application/json")


async def workflow_of_job(request: Request) -> bytes:
    """Return the document that the path and the query parameter `format` name. Raises `Problem`."""
    jobs, job_id = context_of(request).stores.jobs, request.path_params["job_id"]
    wanted = request.query_params.get("format", "api")
    if wanted not in ("api", "editor"):
        raise Problem("invalid-parameter", f"format is {wanted[:20]!r}, and not api or editor")
    reading = jobs.workflow if wanted == "api" else jobs.editor_file
    document = await reading(tenant_of(request), job_id)
    if document is None:
        raise Problem("no-editor-file", "the job was submitted in API format")
    return document


async def job_answer(
    request: Request,
    stored: StoredJob,
    status: int = 200,
    *,
    is_awaited: bool = False,
    more: Mapping[str, str] | None = None,
) -> Response:
    """Respond with the job. `is_awaited` means that others may have waited for the same change of it.

    `more` are further headers.
    """
    context, record, base = context_of(request), stored.record, base_url(request)

    def view() -> JobView:
        return job_view(record, context.stores.objects, context.config, base)

    headers = {"etag": _etag(record), **NO_STORE, **(more or {})}
    if not is_awaited and len(record.outputs) <= QUICKLY_SHOWN:
        return answer(view(), status, headers)
    body = await shared_body(request, ("job", record.job_id, record.rev), view)
    return Response(body, status, headers, "application/json")


def _is_news(known: str | None, record: JobRecord) -> bool:
    return record.status.is_terminal if known is None else _etag(record) != known


def _etag(record: JobRecord) -> str:
    return f'"{record.rev}"'


def _flag(request: Request, name: str, *, default: bool = False) -> bool:
    text = request.query_params.get(name, "true" if default else "false")
    if text not in ("true", "false"):
        raise Problem("invalid-parameter", f"{name} is {text[:50]!r}, neither true nor false")
    return text == "true"


OPERATIONS = (
    Operation(
        page,
        "list_jobs",
        "get",
        "/v1/jobs",
        "List jobs, newest first",
        {200: ("one page", JobList)},
        parameters=(
            *FILTERS,
            *PAGE,
        ),
        refusals=("invalid-parameter", "bad-cursor", "unknown-batch", "batch-gone"),
    ),
    Operation(
        show,
        "get_job",
        "get",
        "/v1/jobs/{job_id}",
        "Get a job, or wait for it",
        {200: ("the job", JobView), 304: ("it is still the version that you know", None)},
        parameters=(
            ID,
            wait_parameter("the job is over"),
            KNOWN,
        ),
        refusals=("invalid-parameter", "unknown-job", "job-gone"),
    ),
    Operation(
        cancel,
        "cancel_job",
        "delete",
        "/v1/jobs/{job_id}",
        "Cancel a job, or remove it",
        {
            200: ("the job, which is over", JobView),
            202: ("the job, which is being stopped", JobView),
            204: ("with purge=true: the job and its files are removed", None),
        },
        parameters=(
            ID,
            Parameter(
                "purge",
                "query",
                {"enum": ["true", "false"], "default": "false"},
                "remove the job and its files; one that still runs is removed when it has stopped",
            ),
        ),
        refusals=("invalid-parameter", "unknown-job", "job-gone"),
    ),
    Operation(
        output,
        "get_output",
        "get",
        "/v1/jobs/{job_id}/outputs/{number}",
        "Fetch an output",
        {200: ("with redirect=false, the URL", OutputUrl), 302: ("to a fresh presigned URL", None)},
        parameters=(
            ID,
            Parameter("number", "path", {"type": "integer", "minimum": 0}, "its place in outputs"),
            Parameter("redirect", "query", {"enum": ["true", "false"], "default": "true"}, "false answers the URL"),
        ),
        refusals=("invalid-parameter", "unknown-job", "job-gone", "unknown-output"),
    ),
    Operation(
        logs,
        "get_logs",
        "get",
        "/v1/jobs/{job_id}/logs",
        "What the engine said while the job ran, as text",
        {200: ("text/plain, one line a line", None)},
        parameters=(
            ID,
            Parameter("attempt", "query", {"type": "integer", "minimum": 1}, "of which attempt; the current one else"),
        ),
        refusals=("invalid-parameter", "unknown-job", "job-gone", "no-log"),
    ),
    Operation(
        workflow,
        "get_workflow",
        "get",
        "/v1/jobs/{job_id}/workflow",
        "The workflow, in API format or as the editor's file that was submitted",
        {200: ("the API-format graph, or the file", None)},
        parameters=(
            ID,
            Parameter(
                "format", "query", {"enum": ["api", "editor"], "default": "api"}, "editor: the file that was submitted"
            ),
        ),
        refusals=("invalid-parameter", "unknown-job", "job-gone", "no-editor-file"),
    ),
)

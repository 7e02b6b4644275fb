"""/api/v2/jobs: submit, get and cancel jobs; a job's workflow and log."""

import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import (
    NO_STORE,
    answer,
    base_url,
    body_of,
    check_is_json,
    context_of,
    identity_of,
    json_body,
    principal_of,
    shared_body,
    tenant_of,
)
from app.api.job_view import QUICKLY_SHOWN
from app.comfy_v2.asset_references import with_assets
from app.comfy_v2.errors import ComfyProblem
from app.comfy_v2.events import events
from app.comfy_v2.job_list import ComfyJobList, page
from app.comfy_v2.job_view import ComfyJob, comfy_job
from app.comfy_v2.queue import queue_position
from app.comfy_v2.submission import ComfySubmission, refuse_reserved
from app.fields import Moment, ResponseBody
from app.heavy import off_loop
from app.operations import ID, KEY, PAGE, WORKFLOW, Operation, Parameter
from app.outcome import outcome_of
from app.problems import Problem
from app.submission.acceptance import Acceptance
from app.submission.preparation import Preparation, parsed
from storage.errors import IdempotencyKeyReused, JobGone, LogNotFound
from storage.jobs.models import Input
from storage.jobs.record import JobRecord
from storage.jobs.store import JobStore, StoredJob

SCOPE = "v2/jobs"
"""The operation to which Idempotency-Keys of this API belong: they are rejected here, and replayed in /v1."""


class ComfyLog(ResponseBody):
    text: str
    truncated: bool = Field(description="whether its beginning is missing")
    captured_at: Moment
    complete: bool = Field(description="whether the job is over, so that nothing follows")


async def submit(request: Request) -> Response:
    """Accept a job, or refuse it if its Idempotency-Key was used before."""
    context, tenant = context_of(request), tenant_of(request)
    check_is_json(request)
    with body_of(request) as body:
        document = await json_body(request, body, limit=context.config.max_request_bytes, keep=(("workflow",),))
        acceptance, identity = Acceptance(context.services, tenant, SCOPE), identity_of(request, body)
        try:
            if await acceptance.replayed(identity) is not None:
                raise _reused()
            refuse_reserved(document)
            given = await body.aside(parsed, ComfySubmission, document)
            preparation = Preparation(context.services, tenant, body, principal_of(request).graphs)
            job = given.as_job(most_labels=context.config.max_metadata_pairs)
            prepared = await preparation.only_job(
                await with_assets(preparation, job, body, most=context.config.max_media)
            )
            # Nothing refuses the request after this claims its key, so a refused request leaves the key free.
            accepted = await acceptance.job(prepared, identity)
        except (IdempotencyKeyReused, JobGone):  # an earlier request with this key had another body, or its job is gone
            raise _reused() from None
    if accepted.is_replay:  # a concurrent request with this key was first
        raise _reused()
    outcome_of(request.scope).jobs_accepted = 1
    return await job_answer(request, accepted.stored.record, 201)


def _reused() -> Problem:
    message = "this Idempotency-Key was used within the last 24 hours; list your jobs to find the one that it made"
    return ComfyProblem("idempotency_key_reuse", message, slug="idempotency-key-reused")


async def show(request: Request) -> Response:
    return await job_answer(request, (await _stored(request)).record)


async def cancel(request: Request) -> Response:
    """Request the cancellation and answer at once; a finished job stays as it is."""
    context = context_of(request)
    now = context.stores.clock.now()
    job_id = request.path_params["job_id"]
    stored = await context.stores.jobs.evolve(tenant_of(request), job_id, lambda record: record.cancel(now=now))
    return await job_answer(request, stored.record)


async def workflow(request: Request) -> Response:
    """Return the graph that runs, without `extra_data`: with its `inputs` set, if it came by /v1."""
    context, tenant, job_id = context_of(request), tenant_of(request), request.path_params["job_id"]

    async def read() -> bytes:
        return await _workflow_body(context.stores.jobs, tenant, job_id)

    # Few at a time: a graph and its inputs have megabytes, and are in memory until they are joined.
    body = await context.shared.get(tenant, (SCOPE, "workflow", job_id), read)
    return Response(body, headers=NO_STORE, media_type="application/json")


async def _workflow_body(jobs: JobStore, tenant: str, job_id: str) -> bytes:
    stored = await jobs.read_with_workflow(tenant, job_id)
    document = stored.workflow or await jobs.workflow(tenant, job_id)
    if inputs := await jobs.inputs(stored.record):
        document = await off_loop(_with_inputs, document, inputs)
    return b'{"workflow":%b,"format":"api"}' % document  # the stored graph is JSON already


def _with_inputs(document: bytes, inputs: Sequence[Input]) -> bytes:
    graph = json.loads(document)
    for one in inputs:  # their nodes exist: they were checked when the job was accepted
        graph[one.node].setdefault("inputs", {})[one.field] = one.value
    return to_json(graph)


async def logs(request: Request) -> Response:
    """Return the log of the current attempt; 204 if there is none yet."""
    record = (await _stored(request)).record
    try:
        log = await context_of(request).stores.logs.find(record.tenant, record.job_id, record.attempt)
    except LogNotFound:
        return Response(status_code=204, headers=NO_STORE)
    complete = record.status.is_terminal
    return answer(
        ComfyLog(text=log.text, truncated=False, captured_at=log.written_at, complete=complete), 200, NO_STORE
    )


async def job_answer(request: Request, record: JobRecord, status: int = 200) -> Response:
    """Respond with the job. A new one has no position yet: to count it would delay the answer by a round."""
    context, mount = context_of(request), mount_of(request)
    position = None if status == 201 else await queue_position(context, record)

    def view() -> ComfyJob:
        return comfy_job(record, context.stores.objects, context.config, mount=mount, queue_position=position)

    if len(record.outputs) <= QUICKLY_SHOWN:
        return answer(view(), status, NO_STORE)
    body = await shared_body(request, (SCOPE, record.job_id, record.rev), view)
    return Response(body, status, NO_STORE, "application/json")


def mount_of(request: Request) -> str:
    """Return the path under which a proxy serves this deployment; empty for a host of its own."""
    return urlsplit(base_url(request)).path.rstrip("/")


async def _stored(request: Request) -> StoredJob:
    return await context_of(request).stores.jobs.read(tenant_of(request), request.path_params["job_id"])


_LABELS = Parameter("metadata", "query", {"type": "object", "additionalProperties": {"type": "string"}}, "labels")

OPERATIONS = (
    Operation(
        submit,
        "comfy_v2_submit_job",
        "post",
        "/api/v2/jobs",
        "Submit a workflow",
        {201: ("stored and queued", ComfyJob)},
        parameters=(KEY,),
        request=ComfySubmission,
        example={"workflow": WORKFLOW, "metadata": {"order": "4711"}},
    ),
    Operation(
        page,
        "comfy_v2_list_jobs",
        "get",
        "/api/v2/jobs",
        "List jobs, newest first",
        {200: ("one page", ComfyJobList)},
        parameters=(_LABELS, *PAGE),
    ),
    Operation(
        show,
        "comfy_v2_get_job",
        "get",
        "/api/v2/jobs/{job_id}",
        "Get a job",
        {200: ("the job", ComfyJob)},
        parameters=(ID,),
    ),
    Operation(
        workflow,
        "comfy_v2_get_workflow",
        "get",
        "/api/v2/jobs/{job_id}/workflow",
        "The workflow of a job",
        {200: ("the graph and its format", None)},
        parameters=(ID,),
    ),
    Operation(
        events,
        "comfy_v2_stream_events",
        "get",
        "/api/v2/jobs/{job_id}/events",
        "Follow a job by server-sent events",
        {200: ("text/event-stream", None)},
        parameters=(ID,),
    ),
    Operation(
        logs,
        "comfy_v2_get_logs",
        "get",
        "/api/v2/jobs/{job_id}/logs",
        "The log of a job",
        {200: ("the log so far", ComfyLog), 204: ("there is none yet", None)},
        parameters=(ID,),
    ),
    Operation(
        cancel,
        "comfy_v2_cancel_job",
        "post",
        "/api/v2/jobs/{job_id}/cancel",
        "Cancel a job",
        {200: ("the job", ComfyJob)},
        parameters=(ID,),
    ),
)

"""POST /v1/jobs and POST /v1/jobs/{job_id}/retry: submit jobs; the response to every submission of one job."""

import contextlib
from dataclasses import replace
from typing import Any

from pydantic import Field, RootModel
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import (
    REPLAYED,
    Context,
    answer,
    base_url,
    body_of,
    check_is_json,
    context_of,
    identity_of,
    json_body,
    long_poll,
    principal_of,
    tenant_of,
)
from app.api.job_view import JobUrls, JobView, NodeWarning, job_urls, warnings_view
from app.api.jobs import job_answer
from app.api.prefer import PREFERENCE_APPLIED, preferred_wait
from app.auth import Principal
from app.body import Body
from app.fields import Moment, ResponseBody
from app.operations import ACCEPTED_BEFORE, BODY_PROBLEMS, ID, KEY, PREFER, SUBMISSION_PROBLEMS, WORKFLOW, Operation
from app.outcome import outcome_of
from app.problems import Problem
from app.submission.acceptance import Acceptance, Accepted, Identity
from app.submission.foreign import job_form, relocated
from app.submission.preparation import LONG_IN_JOBS, Preparation, parsed
from app.submission.request import JobRequest
from app.submission.retry import Retry
from storage.errors import JobGone, JobNotFound
from storage.jobs.record import Status, WorkflowFormat
from storage.jobs.store import StoredJob

RETRIES = "retries"
"""The operation to which the Idempotency-Keys of retries belong."""


class JobAccepted(ResponseBody):
    """202: the job is stored, and will end in exactly one way."""

    job_id: str
    status: Status
    created_at: Moment
    estimated_time: int = Field(description="seconds, from recent jobs of this workflow")
    workflow_format: WorkflowFormat = Field(description="editor: the workflow was made of a file of ComfyUI's editor")
    warnings: dict[str, NodeWarning] = Field(description="by node id: the outputs behind it do not run, the others do")
    urls: JobUrls


class JobOrAccepted(RootModel[JobView | JobAccepted]):
    """The job, if it ended while the client preferred to wait; else the same as 202."""


async def submit(request: Request) -> Response:
    return await accepted_answer(request, await _submitted(request))


async def _submitted(request: Request) -> Accepted:
    # In a function of its own, so that a response that waits for the job holds no parsed body in memory.
    context = context_of(request)
    check_is_json(request)
    with body_of(request) as body:
        document = await json_body(request, body, limit=context.config.max_request_bytes, keep=LONG_IN_JOBS)
        return await run_graph(context, principal_of(request), document, body, identity_of(request, body))


async def run_graph(context: Context, principal: Principal, document: Any, body: Body, identity: Identity) -> Accepted:
    """Accept a job of a graph of the client's own. `document` is the request's JSON. Raises `Problem`."""
    acceptance = Acceptance(context.services, principal.tenant)
    accepted = await acceptance.replayed(identity)
    if accepted is not None:
        return accepted
    preparation = Preparation(context.services, principal.tenant, body, principal.graphs, takes_editor_files=True)
    form = await body.aside(job_form, document)
    with relocated(form.moves):
        prepared = await preparation.only_job(await body.aside(parsed, JobRequest, form.document))
    return await acceptance.job(prepared, identity)


async def retry(request: Request) -> Response:
    context, tenant, job_id = context_of(request), tenant_of(request), request.path_params["job_id"]
    with body_of(request) as body:
        accepted = await retry_job(context, tenant, job_id, body, identity_of(request, body))
    return await accepted_answer(request, accepted)


async def retry_job(context: Context, tenant: str, job_id: str, body: Body, identity: Identity) -> Accepted:
    """Submit a finished job again. The two jobs name each other. Raises `Problem`."""
    stored = await context.stores.jobs.read(tenant, job_id)
    acceptance = Acceptance(context.services, tenant, RETRIES)
    # The request has no body: what it asks for is in its path.
    identity = replace(identity, fingerprint=job_id)
    accepted = await acceptance.replayed(identity)
    if accepted is None:
        accepted = await acceptance.job(await Retry(context.services, tenant, body).prepared(stored), identity)
    # The new job names the old one already. A process that dies here leaves out the other link; a repeat adds it.
    new_id = accepted.stored.record.job_id
    with contextlib.suppress(JobNotFound):  # the new job is accepted, so the removal of the old one refuses nothing
        await context.stores.jobs.evolve_from(stored, lambda record: record.retried(new_id))
    return accepted


async def accepted_answer(request: Request, accepted: Accepted) -> Response:
    """Respond 202, or 200 for a job that an earlier request created, or that ends while the client prefers to wait."""
    outcome_of(request.scope).jobs_accepted = 0 if accepted.is_replay else 1
    headers = {"location": job_urls(accepted.stored.record.job_id, base_url(request)).self}
    if accepted.is_replay:
        headers[REPLAYED] = "true"
    wait_s = preferred_wait(request, at_most=context_of(request).config.max_wait_s)
    waited = None if wait_s is None else await _waited(request, accepted.stored, wait_s)
    if waited is not None:
        headers[PREFERENCE_APPLIED] = f"wait={wait_s}"
        if waited.record.status.is_terminal:
            return await job_answer(request, waited, more=headers)
        accepted = replace(accepted, stored=waited)
    return _accepted_answer(request, accepted, headers)


async def _waited(request: Request, stored: StoredJob, wait_s: int) -> StoredJob | None:
    """Return the job after its end or the wait; None if this process cannot wait."""
    try:
        until = context_of(request).watch.until
        return await long_poll(request, lambda: until(stored, lambda record: record.status.is_terminal, wait_s))
    except (Problem, JobGone):  # the job is accepted, so neither too many waits nor its removal refuses the request
        return None


def _accepted_answer(request: Request, accepted: Accepted, headers: dict[str, str]) -> Response:
    record = accepted.stored.record
    view = JobAccepted(
        job_id=record.job_id,
        status=record.status,
        created_at=record.created_at,
        estimated_time=accepted.estimated_s,
        workflow_format=record.workflow_format,
        warnings=warnings_view(record.warnings),
        urls=job_urls(record.job_id, base_url(request)),
    )
    return answer(view, 200 if accepted.is_replay else 202, headers)


OPERATIONS = (
    Operation(
        submit,
        "submit_job",
        "post",
        "/v1/jobs",
        "Submit a workflow",
        {
            202: ("stored: it will end in exactly one way", JobAccepted),
            200: (ACCEPTED_BEFORE, JobOrAccepted),
        },
        parameters=(KEY, PREFER),
        request=JobRequest,
        example={"workflow": WORKFLOW, "inputs": [{"node": "1", "field": "width", "value": 512}]},
        refusals=SUBMISSION_PROBLEMS,
    ),
    Operation(
        retry,
        "retry_job",
        "post",
        "/v1/jobs/{job_id}/retry",
        "Submit a finished job again",
        {
            202: ("stored: it will end in exactly one way", JobAccepted),
            200: (ACCEPTED_BEFORE, JobOrAccepted),
        },
        parameters=(ID, KEY, PREFER),
        refusals=(
            "unknown-job",
            "job-not-over",
            "inputs-gone",
            *(slug for slug in SUBMISSION_PROBLEMS if slug not in BODY_PROBLEMS),
        ),
    ),
)

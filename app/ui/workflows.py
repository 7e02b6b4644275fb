"""The named workflows: each with a form made of its typed inputs, whose job runs and ends next to the form."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.api.context import Context, body_of, context_of, json_text, tenant_of
from app.api.workflows import run_by_name, workflow_of, workflow_row
from app.heavy import off_loop
from app.outcome import outcome_of
from app.submission.acceptance import Identity
from app.submission.named import LONG_IN_NAMED_JOBS
from app.ui.inputs import Upload, form_field, typed_values
from app.ui.jobs import Row, row_of
from app.ui.live import live_values
from app.ui.pages import render
from app.ui.routing import action, form, is_fragment, page, see_other
from storage.errors import JobNotFound
from storage.jobs.filters import JobFilter
from storage.keys import DEFAULT_POOL, upload_of
from workflows.manifest import NamedWorkflow

HISTORY = 5
"""Runs of a workflow that its page shows."""
SCANNED = 200
"""The newest jobs of the tenant among which they are found, for one GET each."""
MOST_SLIDER_STEPS = 10_000
"""A slider with more steps could not be set exactly; the field next to it can."""
MOST_REPEATED = 64 * 1024
"""Characters of an earlier job's text that the form repeats; a longer one is left to its default."""
LONG_TEXT = 60
"""A default text of more characters gets a field of several lines, as every prompt does."""


async def show_all(request: Request) -> Response:
    context = context_of(request)
    catalogue = await context.stores.engine_info.catalogue(DEFAULT_POOL)
    named = tuple(context.services.workflows.values())
    rows = await off_loop(lambda: [workflow_row(workflow, catalogue) for workflow in named])
    # What can run here comes first.
    return render(request, "workflows.html", workflows=sorted(rows, key=lambda row: row.runnable is False))


async def show(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    workflow = workflow_of(context, request.path_params["name"])
    catalogue = await context.stores.engine_info.catalogue(DEFAULT_POOL)
    values = await _earlier_values(context, tenant, workflow, request.query_params.get("from"))

    def rendered() -> Response:
        row = workflow_row(workflow, catalogue)
        fields = [form_field(one, values.get(one.name)) for one in row.inputs]
        return render(request, "workflow.html", workflow=row, fields=fields, pools=context.config.gpu_pools)

    return await off_loop(rendered)


async def runs(request: Request) -> Response:
    """Return the latest runs. The page asks for them when it is shown: records must be read to find them."""
    context, tenant = context_of(request), tenant_of(request)
    workflow, now = workflow_of(context, request.path_params["name"]), context.stores.clock.now()

    async def found() -> Sequence[Row]:
        wanted = JobFilter(workflow_name=workflow.name)
        listed = await context.stores.jobs.page(
            tenant, lambda record: row_of(context, record, now), wanted, limit=HISTORY, cursor=None, scan=SCANNED
        )
        return listed.rows

    rows = await context.shared.get(tenant, ("ui", "runs", workflow.name), found)
    return render(request, "fragments/runs.html", workflow_name=workflow.name, runs=rows, scanned=SCANNED, now=now)


async def run(request: Request) -> Response:
    """Accept the job, and return its live part for the page, or lead to its page where there is no script."""
    context, tenant, fields = context_of(request), tenant_of(request), form(request)
    workflow = workflow_of(context, request.path_params["name"])
    wanted: dict[str, Any] = {"inputs": typed_values(workflow.manifest.inputs, fields)}
    if receiver := fields.get("webhook_url", "").strip():
        wanted["webhook_url"] = receiver
    if pool := fields.get("gpu"):
        wanted["gpu"] = pool
    text = await off_loop(lambda: json.dumps(wanted, ensure_ascii=False))
    with body_of(request) as body:
        # Parsed as a request of the API is, under the same limits of texts and numbers.
        document = await json_text(request, body, text.encode(), keep=LONG_IN_NAMED_JOBS)
        accepted = await run_by_name(context, tenant, workflow, document, body, Identity(None, body.fingerprint))
    outcome_of(request.scope).jobs_accepted = 1
    if not is_fragment(request):
        return see_other(f"/jobs/{accepted.stored.record.job_id}")
    values = live_values(request, context, accepted.stored)
    return render(request, "fragments/run.html", **values)


async def _earlier_values(
    context: Context, tenant: str, workflow: NamedWorkflow, job_id: str | None
) -> Mapping[str, Any]:
    """Return the values and uploads of an earlier job by the names of the workflow's inputs; none if it is gone."""
    if job_id is None:
        return {}
    try:
        record = (await context.stores.jobs.read(tenant, job_id)).record
        inputs = await context.stores.jobs.inputs(record)
    except JobNotFound:
        return {}
    given = {(one.node, one.field): one.value for one in inputs}
    uploads = {file.name: Upload(file.name, found) for file in record.input_files if (found := upload_of(file.key))}
    values: dict[str, Any] = {}
    for name, named in workflow.manifest.inputs.items():
        value = given.get(next(named.targets()))
        if named.is_file:
            values[name] = uploads.get(str(value))
        elif not isinstance(value, str) or len(value) <= MOST_REPEATED:
            values[name] = value
    return values


ROUTES = (
    page("/workflows", show_all, "list_workflows"),
    page("/workflows/{name}", show, "show_workflow", holds_documents=True),
    page("/workflows/{name}/runs", runs, "workflow_runs"),
    action("/workflows/{name}/run", run, "run_workflow"),
)

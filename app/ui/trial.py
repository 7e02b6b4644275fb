"""Try a graph once: a file that ComfyUI's editor saved or exported, or that it wrote into a picture.

It is checked first, without running it: what the conversion left out, what this deployment lacks, and which input files
the job must bring. Each of these files gets a field of its own, named as the loader names it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.api.context import Context, body_of, context_of, json_text, principal_of, tenant_of
from app.api.submissions import run_graph
from app.api.workflow_body import known_pool
from app.body import Body
from app.heavy import off_loop
from app.outcome import outcome_of
from app.problems import Problem, of_workflow
from app.submission.acceptance import Identity
from app.submission.foreign import job_form
from app.ui.checks import DIGEST, Checked, check_graph, digest_of, proposed, uploads_of
from app.ui.forms import Form
from app.ui.inputs import INPUT_PREFIX, typed_values
from app.ui.live import live_values
from app.ui.pages import render
from app.ui.routing import action, form, is_fragment, page, see_other
from storage.jobs.models import Input
from storage.keys import upload_of
from workflows.errors import WorkflowError
from workflows.inspection import inspect

MOST_SHOWN = 1024 * 1024
"""Bytes of an earlier job's graph that the form repeats."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier job ran, to be changed and run again. `uploads` are its input files by their names."""

    graph: str = ""
    uploads: Mapping[str, str] = field(default_factory=dict)


async def show(request: Request) -> Response:
    job_id = request.query_params.get("from")
    earlier = Earlier()
    if job_id is not None:
        earlier = await _of_job(context_of(request), tenant_of(request), job_id)
    # In a thread, because the graph may have a megabyte to escape.
    return await off_loop(_page(request, earlier.graph, None, earlier.uploads))


async def check(request: Request) -> Response:
    """Return what the graph is here, without running it."""
    context, fields = context_of(request), form(request)
    try:
        with body_of(request) as body:
            document = await _document(request, body, fields)
            checked = await check_graph(context, principal_of(request), body, document, fields)
    except Problem as problem:
        checked = Checked(problem=problem)
    # In a thread, because a drawing may have thousands of boxes.
    if is_fragment(request):
        return await off_loop(partial(render, request, "fragments/checked.html", checked=checked))
    return await off_loop(_page(request, fields.get("graph", ""), checked))


def _page(
    request: Request, graph: str, checked: Checked | None, uploads: Mapping[str, str] | None = None
) -> Callable[[], Response]:
    """Return what renders the page. `uploads` are input files of an earlier job by their names."""
    pools = context_of(request).config.gpu_pools
    return partial(render, request, "trial.html", graph=graph, checked=checked, uploads=uploads or {}, pools=pools)


async def run(request: Request) -> Response:
    context, fields = context_of(request), form(request)
    with body_of(request) as body:
        graph = await _document(request, body, fields)
        values = await _changed_values(context, fields, graph)
        media = [{"name": name, "upload_id": upload} for name, upload in uploads_of(fields).items()]
        document = {"workflow": graph, "inputs": values, "media": media, "gpu": fields.get("gpu") or None}
        accepted = await run_graph(context, principal_of(request), document, body, Identity(None, body.fingerprint))
    outcome_of(request.scope).jobs_accepted = 1
    if not is_fragment(request):
        return see_other(f"/jobs/{accepted.stored.record.job_id}")
    return render(request, "fragments/run.html", **live_values(request, context, accepted.stored))


async def _document(request: Request, body: Body, fields: Form) -> Any:
    """Return the graph or editor's file of the form; of a whole request of ComfyUI's API what stands in it."""
    document = await json_text(request, body, fields.get("graph", "").encode())
    moved = (await body.aside(job_form, document)).document
    return moved["workflow"] if isinstance(moved, dict) and "workflow" in moved else document


async def _changed_values(context: Context, fields: Form, graph: Any) -> list[dict[str, Any]]:
    """Return the values of the form that differ from those in the graph. Raises `Problem`.

    The fields are those of the last check. For a graph that was edited since they would undo the edit.
    """
    if fields.get(DIGEST) != digest_of(fields):
        return []
    catalogue = await context.stores.engine_info.catalogue(known_pool(context.config, fields.get("gpu")))

    def changed() -> list[dict[str, Any]]:
        offered = proposed(inspect(graph, catalogue, None))
        # A text without a field would be set to an empty one.
        shown = [one for one in offered if one.declared.type == "boolean" or f"{INPUT_PREFIX}{one.name}" in fields]
        values = typed_values({one.name: one.declared for one in shown}, fields)
        return [
            {"node": node, "field": name, "value": values[one.name]}
            for one in shown
            if one.name in values and values[one.name] != one.default
            for node, name in one.declared.targets()
        ]

    try:
        return await off_loop(changed)
    except WorkflowError as error:
        raise of_workflow(error, "") from error


async def _of_job(context: Context, tenant: str, job_id: str) -> Earlier:
    """Return what a job ran and its uploads; no graph if it is too large for the form."""
    jobs = context.stores.jobs
    record = (await jobs.read(tenant, job_id)).record
    inputs = await jobs.inputs(record)
    # The inputs of a job are set in the graph that was made of its editor's file, and not in the file.
    wants_file = record.workflow_format == "editor" and not inputs
    document = await jobs.editor_file(tenant, job_id) if wants_file else None
    if document is None:
        document = await jobs.workflow(tenant, job_id)
    uploads = {file.name: upload for file in record.input_files if (upload := upload_of(file.key)) is not None}
    is_short = len(document) <= MOST_SHOWN
    return Earlier(await off_loop(_indented, document, inputs) if is_short else "", uploads)


def _indented(document: bytes, inputs: Sequence[Input]) -> str:
    """Return the document for people, with the values that the job set in its graph."""
    parsed = json.loads(document)
    for one in inputs:
        if isinstance(node := parsed.get(one.node), dict):
            node.setdefault("inputs", {})[one.field] = one.value
    text = json.dumps(parsed, indent=2, ensure_ascii=False)
    return text if len(text) <= MOST_SHOWN else ""


ROUTES = (
    page("/try", show, "show_trial", holds_documents=True),
    action("/try", run, "run_trial", holds_documents=True),
    action("/try/check", check, "check_trial", holds_documents=True),
)

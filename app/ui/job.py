"""The page of a job: its state, outputs, inputs, graph, log, deliveries, cost, and code to repeat it."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.api.context import Context, base_url, context_of, tenant_of
from app.api.jobs import workflow_of_job
from app.api.webhooks import deliveries_of, delivery_view, redeliver_event
from app.heavy import off_loop
from app.ui.drawing import Drawing, drawing_of
from app.ui.jobs import PICTURES
from app.ui.live import live_values
from app.ui.pages import page_headers, render
from app.ui.routing import action, page, see_other
from app.ui.snippets import beginning_of_json, snippets
from storage.concurrency import both
from storage.errors import LogNotFound
from storage.jobs.models import Input, InputFile
from storage.jobs.record import JobRecord
from storage.jobs.store import StoredJob
from workflows.editor import positions
from workflows.errors import WorkflowError
from workflows.graph import parse_graph
from workflows.manifest import NamedWorkflow

MOST_LOG = 64 * 1024
"""Characters of a log that the page shows, the newest ones; the API has all of it."""
MOST_VALUE = 4_000
"""Characters of an input's value that the page shows."""
MOST_VALUES, MOST_FILES = 200, 60
"""Inputs and input files that the page shows, of the many that a job may have."""
MOST_DELIVERIES = 200
"""Events whose deliveries the page shows, the newest ones; the API has all of them."""


async def show(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    stored = await context.stores.jobs.read_with_workflow(tenant, request.path_params["job_id"])
    record = stored.record
    inputs, canvas = await both(context.stores.jobs.inputs(record), _editor_file(context, record))

    def rendered() -> Response:
        return render(
            request,
            "job.html",
            **live_values(request, context, stored),
            values=_values(inputs, context.services.workflows.get(record.workflow_name or "")),
            files=[_file(context, file) for file in record.input_files[:MOST_FILES]],
            has_more_inputs=len(inputs) > MOST_VALUES or len(record.input_files) > MOST_FILES,
            drawing=_drawing(stored, inputs, canvas),
            is_of_editor=record.workflow_format == "editor",
            snippets=snippets(record, inputs, context.services.workflows, base_url(request)),
            has_receiver=record.webhook_url is not None,
        )

    # In a thread: a graph, the inputs and a thousand outputs may have megabytes.
    return await off_loop(rendered)


async def logs(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    record = (await context.stores.jobs.read(tenant, request.path_params["job_id"])).record
    try:
        text = await context.stores.logs.read(tenant, record.job_id, max(1, record.attempt))
    except LogNotFound:
        text = ""
    return render(
        request,
        "fragments/job_log.html",
        job_id=record.job_id,
        is_running=not record.status.is_terminal,
        text=text[-MOST_LOG:],
        is_cut=len(text) > MOST_LOG,
    )


async def deliveries(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    record = (await context.stores.jobs.read(tenant, request.path_params["job_id"])).record
    events = record.events[-MOST_DELIVERIES:]
    found = await deliveries_of(context, record, events)

    def rendered() -> Response:
        return render(
            request,
            "fragments/job_deliveries.html",
            job_id=record.job_id,
            deliveries=[delivery_view(one) for one in found],
            is_cut=len(events) < len(record.events),
            receiver=(record.webhook_url or "").partition("?")[0],
            is_open=not record.status.is_terminal,
            is_pending=any(one.status == "pending" for one in found)
            or (len(found) < len(events) and _has_just_ended(record, context.stores.clock.now())),
        )

    # In a thread, because the deliveries may have thousands of attempts.
    return await off_loop(rendered)


def _has_just_ended(record: JobRecord, now: datetime) -> bool:
    """Return whether the delivery of its last event may not be stored yet; later ones may have been cleaned up."""
    return record.completed_at is not None and now - record.completed_at < timedelta(minutes=1)


async def redeliver(request: Request) -> Response:
    job_id = request.path_params["job_id"]
    await redeliver_event(context_of(request), tenant_of(request), job_id, request.path_params["event_id"])
    return see_other(f"/jobs/{job_id}#deliveries")


async def workflow(request: Request) -> Response:
    """Download the graph that ran, or with ?format=editor the file of ComfyUI's editor that it was made of."""
    job_id = request.path_params["job_id"]
    document = await workflow_of_job(request)
    name = "editor" if request.query_params.get("format") == "editor" else "workflow"
    # A download, never a document of our origin: its texts are the submitter's.
    disposition = f'attachment; filename="{name}-{job_id[:8]}.json"'
    return Response(
        document, 200, {**page_headers(None), "content-disposition": disposition}, media_type="application/json"
    )


async def _editor_file(context: Context, record: JobRecord) -> bytes | None:
    if record.workflow_format != "editor":
        return None
    return await context.stores.jobs.editor_file(record.tenant, record.job_id)


def _values(inputs: Sequence[Input], workflow: NamedWorkflow | None) -> list[dict[str, Any]]:
    """Return the values that the job set, each once, by the names of its workflow where it has one."""
    named = {} if workflow is None else workflow.manifest.inputs
    names = {place: name for name, one in named.items() for place in one.targets()}
    shown: dict[str, dict[str, Any]] = {}
    for value in inputs[:MOST_VALUES]:
        name = names.get((value.node, value.field), f"{value.node}.{value.field}")
        shown.setdefault(name, {"name": name, **_shown(value)})
    return list(shown.values())


def _shown(value: Input) -> dict[str, Any]:
    text = value.value if isinstance(value.value, str) else beginning_of_json(value.value, MOST_VALUE + 1)
    return {"text": text[:MOST_VALUE], "is_cut": len(text) > MOST_VALUE}


def _file(context: Context, file: InputFile) -> dict[str, Any]:
    signed = context.stores.objects.presign_get(
        file.key,
        expires_s=context.config.output_expires_s,
        filename=file.name.rsplit("/", 1)[-1],
        content_type=file.content_type,
    )
    return {
        "name": file.name,
        "size_bytes": file.size_bytes,
        "url": signed.url,
        "is_picture": file.content_type in PICTURES,
    }


def _drawing(stored: StoredJob, inputs: tuple[Input, ...], canvas: bytes | None) -> Drawing | None:
    record = stored.record
    if stored.workflow is None:
        return None
    try:
        graph = parse_graph(json.loads(stored.workflow))
    except WorkflowError:  # a graph of an earlier version's rules
        return None
    known = [(one.node, one.field, one.value) for one in inputs if one.node in graph.nodes]
    return drawing_of(
        graph.with_values(known),
        failed=record.error_detail.node_id if record.error_detail else None,
        current=record.progress_details.current_node,
        makes=frozenset(output.node_id for output in record.outputs),
        canvas=None if canvas is None else positions(json.loads(canvas)),
    )


ROUTES = (
    page("/jobs/{job_id}", show, "show_job", holds_documents=True),
    page("/jobs/{job_id}/logs", logs, "job_logs", holds_documents=True),
    page("/jobs/{job_id}/deliveries", deliveries, "job_deliveries", holds_documents=True),
    page("/jobs/{job_id}/workflow", workflow, "job_workflow", holds_documents=True),
    action("/jobs/{job_id}/deliveries/{event_id}/redeliver", redeliver, "redeliver"),
)

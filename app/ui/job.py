"""The page of a job: its state, outputs, inputs, graph, log, deliveries, cost, and code to repeat it."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.api.context import Context, base_url, context_of, tenant_of
from app.api.job_view import QUICKLY_SHOWN, JobView, OutputView, job_view
from app.api.jobs import workflow_of_job
from app.api.webhooks import deliveries_of, redeliver_event
from app.heavy import off_loop
from app.streams.story import Story
from app.ui.drawing import Drawing, drawing_of
from app.ui.jobs import PICTURES, run_seconds
from app.ui.pages import page_headers, render
from app.ui.routing import action, page, see_other
from app.ui.snippets import snippets
from storage.concurrency import both
from storage.errors import LogNotFound
from storage.jobs.models import Input, InputFile
from storage.jobs.record import CANCELLED, JobRecord
from storage.jobs.store import StoredJob
from workflows.editor import positions
from workflows.errors import WorkflowError
from workflows.graph import parse_graph
from workflows.manifest import NamedWorkflow

MOST_LOG = 64 * 1024
"""Characters of a log that the page shows, the newest ones; the API has all of it."""
MOST_VALUE = 4_000
"""Characters of an input's value that the page shows."""
VIDEOS, SOUNDS = ("video/mp4", "video/webm"), ("audio/mpeg", "audio/flac", "audio/wav", "audio/ogg", "audio/mp4")


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
            files=[_file(context, file) for file in record.input_files],
            drawing=_drawing(stored, inputs, canvas),
            is_of_editor=record.workflow_format == "editor",
            snippets=snippets(record, inputs, context.services.workflows, base_url(request)),
            has_receiver=record.webhook_url is not None,
        )

    # In the thread: a graph, the inputs and a thousand outputs may have megabytes.
    return await off_loop(rendered)


async def live(request: Request) -> Response:
    """Return the changing part of the page, which asks for it when the job's stream says that something changed."""
    context, tenant = context_of(request), tenant_of(request)
    stored = await context.stores.jobs.read(tenant, request.path_params["job_id"])
    record = stored.record
    # The outputs are replaced only when there are more of them, or a video would begin anew with each change.
    has_more = record.status.is_terminal or str(len(record.outputs)) != request.query_params.get("outputs", "")

    def rendered() -> Response:
        values = {**live_values(request, context, stored), "with_outputs": has_more}
        return render(request, "fragments/job_live.html", swap_outputs=True, **values)

    return rendered() if len(record.outputs) <= QUICKLY_SHOWN else await off_loop(rendered)


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
    found = await deliveries_of(context, record)
    return render(
        request,
        "fragments/job_deliveries.html",
        job_id=record.job_id,
        deliveries=found.deliveries,
        receiver=(record.webhook_url or "").partition("?")[0],
        is_open=not record.status.is_terminal,
        is_pending=any(one.status == "pending" for one in found.deliveries)
        or (len(found.deliveries) < len(record.events) and _has_just_ended(record, context.stores.clock.now())),
    )


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


def live_values(request: Request, context: Context, stored: StoredJob) -> Mapping[str, Any]:
    """Return what the live part of a job shows, for each page that has one."""
    record, now = stored.record, context.stores.clock.now()
    view = job_view(record, context.stores.objects, context.config, base_url(request))
    return {
        "job": view,
        "since": str(Story().after(record)[1].position),
        "label": CANCELLED if record.error_code == CANCELLED else str(record.status),
        "is_cancelling": record.cancel_requested_at is not None and not record.status.is_terminal,
        "seconds": run_seconds(record, now),
        "waited": ((record.started_at or record.completed_at or now) - record.created_at).total_seconds(),
        "nodes": _nodes(view),
        "kinds": {output.url: _kind(output) for output in view.outputs},
        "with_outputs": True,
        "now": now,
    }


def _nodes(view: JobView) -> list[dict[str, Any]]:
    """Return the timeline: each node with its seconds and its share of the longest, once they are known."""
    timed = view.timings.nodes
    longest = max((node.seconds for node in timed), default=0) or 1
    return [{**node.model_dump(), "share": round(100 * node.seconds / longest)} for node in timed]


def _kind(output: OutputView) -> str:
    """Return how the page shows an output. What a browser would run, such as HTML or SVG, is only offered to save."""
    if output.content_type in PICTURES:
        return "picture"
    if output.content_type in VIDEOS:
        return "video"
    if output.content_type in SOUNDS:
        return "audio"
    return "text" if output.text is not None else "file"


def _values(inputs: Sequence[Input], workflow: NamedWorkflow | None) -> list[dict[str, Any]]:
    """Return the values that the job set, each once, by the names of its workflow where it has one."""
    named = {} if workflow is None else workflow.manifest.inputs
    names = {place: name for name, one in named.items() for place in one.targets()}
    shown: dict[str, dict[str, Any]] = {}
    for value in inputs:
        name = names.get((value.node, value.field), f"{value.node}.{value.field}")
        shown.setdefault(name, {"name": name, **_shown(value)})
    return list(shown.values())


def _shown(value: Input) -> dict[str, Any]:
    text = value.value if isinstance(value.value, str) else json.dumps(value.value, ensure_ascii=False)
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
    page("/jobs/{job_id}/live", live, "job_live"),
    page("/jobs/{job_id}/logs", logs, "job_logs"),
    page("/jobs/{job_id}/deliveries", deliveries, "job_deliveries"),
    page("/jobs/{job_id}/workflow", workflow, "job_workflow", holds_documents=True),
    action("/jobs/{job_id}/deliveries/{event_id}/redeliver", redeliver, "redeliver"),
)

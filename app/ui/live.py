"""The live part of a job, for each page that shows one, and the streams that pages follow.

The streams are those of /v1, for the key of a session and within the same limits. What they send is enough to move a
bar; where a status or an output changes, the page asks for the part itself.
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.api import job_events, tenant_events
from app.api.context import Context, base_url, context_of, tenant_of
from app.api.job_view import QUICKLY_SHOWN, JobView, OutputView, job_view
from app.heavy import off_loop
from app.streams.story import Story
from app.ui.jobs import PICTURES, run_seconds
from app.ui.pages import render
from app.ui.routing import page
from storage.jobs.record import CANCELLED
from storage.jobs.store import StoredJob

MOST_OUTPUTS = 100
"""Outputs that a page shows; each one is a request of the browser to the bucket."""
VIDEOS, SOUNDS = ("video/mp4", "video/webm"), ("audio/mpeg", "audio/flac", "audio/wav", "audio/ogg", "audio/mp4")


async def show(request: Request) -> Response:
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
        "outputs": [(output, _kind(output)) for output in view.outputs[:MOST_OUTPUTS]],
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


ROUTES = (
    page("/events", tenant_events.events, "events", is_stream=True),
    page("/jobs/{job_id}/events", job_events.events, "job_events", is_stream=True),
    page("/jobs/{job_id}/live", show, "job_live", holds_documents=True),
)

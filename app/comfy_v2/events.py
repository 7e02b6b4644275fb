"""GET /api/v2/jobs/{job_id}/events: frames status, progress, preview and output, in the form of Comfy API v2.

Frames have no ids. Each connection begins with a snapshot, and the terminal status comes last.
"""

from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from app.api.context import Context, context_of, tenant_of
from app.comfy_v2.job_view import comfy_output, comfy_progress, comfy_status
from app.comfy_v2.queue import queue_position
from app.fields import ResponseBody
from app.streams.jobs import job_stream
from app.streams.response import frame
from app.streams.story import NodeChanged, OutputStored, PreviewShown, Progressed, Sent, StatusChanged, Story
from storage.jobs.record import Status


class ComfyStatusFrame(ResponseBody):
    status: str
    queue_position: int | None = None


class ComfyPreviewFrame(ResponseBody):
    node_id: str | None
    content_type: str
    data_base64: str


async def events(request: Request) -> Response:
    context = context_of(request)
    stored = await context.stores.jobs.read(tenant_of(request), request.path_params["job_id"])
    waits = Waits(stored.record.attempt, await queue_position(context, stored.record))
    return job_stream(request, stored, Story(), partial(render, context, waits))


@dataclass(frozen=True, slots=True)
class Waits:
    """The job's place in the queue when the stream began, and the attempt for which it waited."""

    attempt: int
    position: int | None


def render(context: Context, waits: Waits, sent: Sent) -> bytes:
    """Encode an event. The result is empty for events that this API does not have."""
    match sent.event:
        case StatusChanged(record=record):
            is_first = record.status is Status.QUEUED and record.attempt == waits.attempt
            position = waits.position if is_first else None
            return frame("status", ComfyStatusFrame(status=comfy_status(record), queue_position=position))
        case OutputStored(record=record, output=output):
            return frame("output", comfy_output(record, output, context.stores.objects, context.config))
        case Progressed(record=record, percent=percent, details=details):
            # The percentage of the record may fall; clients discard a frame that goes back.
            shown = record.model_copy(update={"progress": percent, "progress_details": details})
            progress = comfy_progress(shown)
            return b"" if progress is None else frame("progress", progress)
        case PreviewShown(frame=shown):
            preview = ComfyPreviewFrame(
                node_id=shown.node_id, content_type=shown.content_type, data_base64=shown.data_base64
            )
            return frame("preview", preview)
        case NodeChanged():
            return b""

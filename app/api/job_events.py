"""GET /v1/jobs/{job_id}/events: what happens to a job, as server-sent events."""

from functools import partial
from typing import Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import NO_STORE, context_of, tenant_of
from app.api.job_view import ErrorView, OutputView, ProgressView, error_view, output_view
from app.fields import Moment, ResponseBody
from app.operations import ID, Operation, Parameter
from app.problems import Problem
from app.services import Services
from app.streams.jobs import events_of, job_stream
from app.streams.position import Position
from app.streams.response import frame
from app.streams.story import NodeChanged, OutputStored, PreviewShown, Progressed, Sent, StatusChanged, Story
from storage.jobs.record import JobRecord, Status


class StatusEvent(ResponseBody):
    """`status`: the job's status changed, or its cancellation was requested. The last event of a job's stream."""

    job_id: str
    status: Status
    attempt: int
    created_at: Moment
    started_at: Moment | None
    completed_at: Moment | None
    cancel_requested_at: Moment | None
    error: str | None
    error_detail: ErrorView | None
    metadata: dict[str, str]


class ProgressEvent(ResponseBody):
    """`progress`: how far the current attempt is. It never goes back within an attempt."""

    job_id: str
    attempt: int
    progress: int = Field(ge=0, le=100)
    progress_details: ProgressView


class NodeEvent(ResponseBody):
    """`node`: a node has started or ended. Nodes that take less than a second may be left out."""

    job_id: str
    attempt: int
    node_id: str
    state: Literal["started", "ended"]


class OutputEvent(ResponseBody):
    """`output`: an output is stored. One of an earlier attempt is no output of the job any more."""

    job_id: str
    attempt: int
    output: OutputView


class PreviewEvent(ResponseBody):
    """`preview`: the newest preview of a node, at most one a second; earlier ones may be left out."""

    job_id: str
    attempt: int
    node_id: str | None
    content_type: str = Field(description="image/jpeg")
    data_base64: str


EVENTS: dict[str, type[ResponseBody]] = {
    "status": StatusEvent,
    "progress": ProgressEvent,
    "node": NodeEvent,
    "output": OutputEvent,
    "preview": PreviewEvent,
}
"""The events of /v1 with their data. docs/how-to/events.md lists the same (a test compares)."""

LAST_EVENT_ID = "Last-Event-ID"


async def events(request: Request) -> Response:
    context = context_of(request)
    position = position_of(request)
    stored = await context.stores.jobs.read(tenant_of(request), request.path_params["job_id"])
    if position.attempt > stored.record.attempt:
        raise Problem("invalid-parameter", f"{LAST_EVENT_ID} or since: the job has had no attempt {position.attempt}")
    story = Story(position)
    if story.is_over and not (await events_of(story, stored.record))[0]:
        # EventSource reconnects for ever after any other answer.
        return Response(status_code=204, headers=NO_STORE)
    return job_stream(request, stored, story, partial(render, context.services))


def position_of(request: Request) -> Position:
    """Return what the client knows. Raises `Problem` for an id that no event has."""
    # The header comes first: a browser repeats the URL of its first request when it reconnects.
    given = request.headers.get(LAST_EVENT_ID) or request.query_params.get("since")
    if not given:
        return Position()
    try:
        return Position.parse(given)
    except ValueError as error:
        hint = "send the id of the last event that you processed as it was, or none"
        raise Problem("invalid-parameter", f"{LAST_EVENT_ID} or since: {error}", hint=hint) from None


def render(services: Services, sent: Sent) -> bytes:
    """Encode an event as /v1 sends it."""
    match sent.event:
        case StatusChanged(record=record):
            return frame("status", status_event(record), sent.id)
        case OutputStored(record=record, output=output):
            view = output_view(record.job_id, output, services.stores.objects, services.config)
            return frame("output", OutputEvent(job_id=record.job_id, attempt=record.attempt, output=view), sent.id)
        case Progressed(record=record, percent=percent, details=details):
            shown = ProgressView.model_validate(details.model_dump())
            data = ProgressEvent(job_id=record.job_id, attempt=record.attempt, progress=percent, progress_details=shown)
            return frame("progress", data)
        case NodeChanged(record=record, node_id=node_id, state=state):
            return frame("node", NodeEvent(job_id=record.job_id, attempt=record.attempt, node_id=node_id, state=state))

        case PreviewShown(record=record, frame=shown):
            preview = PreviewEvent(
                job_id=record.job_id,
                attempt=record.attempt,
                node_id=shown.node_id,
                content_type=shown.content_type,
                data_base64=shown.data_base64,
            )
            return frame("preview", preview)


def status_event(record: JobRecord) -> StatusEvent:
    return StatusEvent(
        job_id=record.job_id,
        status=record.status,
        attempt=record.attempt,
        created_at=record.created_at,
        started_at=record.started_at,
        completed_at=record.completed_at,
        cancel_requested_at=record.cancel_requested_at,
        error=record.error,
        error_detail=error_view(record.error_detail),
        metadata=record.metadata,
    )


SINCE = Parameter("since", "query", {"type": "string"}, "as Last-Event-ID, for clients that cannot set the header")
KNOWN_EVENT = Parameter(
    LAST_EVENT_ID, "header", {"type": "string"}, "the id of the last event that you processed; only newer ones follow"
)

OPERATIONS = (
    Operation(
        events,
        "stream_job_events",
        "get",
        "/v1/jobs/{job_id}/events",
        "Follow a job by server-sent events",
        {
            200: ("text/event-stream: the events until the job is over, or the stream has its longest duration", None),
            204: ("the job is over, and you know its end", None),
        },
        parameters=(ID, SINCE, KNOWN_EVENT),
        events=EVENTS,
        refusals=("invalid-parameter", "unknown-job", "job-gone", "too-many-streams"),
    ),
)

"""The job as Comfy API v2 shows it: the models, and their conversion from the record."""

from pydantic import Field

from app.api.job_view import output_url
from app.config import ApiConfig
from app.fields import Moment, ResponseBody
from storage.bucket.objects import ObjectStore
from storage.jobs.models import ErrorDetail, Output
from storage.jobs.output_ids import OutputId
from storage.jobs.record import CANCELLED, DEADLINE_EXCEEDED, QUEUE_TIMEOUT, JobRecord, Status

_ERROR_CODES = {"node_error": "node_execution_error"}
"""Our error codes that have another name in this API."""
_ENDS = {CANCELLED: "canceled", QUEUE_TIMEOUT: "expired", DEADLINE_EXCEEDED: "expired"}
"""The statuses of failed jobs whose error code says that nothing went wrong in them."""
_OUTPUT_TYPES = {"model": "file"}
"""Our output types that this API does not have."""


class ComfyProgress(ResponseBody):
    value: float = Field(ge=0, le=1)
    nodes_done: int
    nodes_total: int
    current_node: str | None = None
    current_node_class: str | None = None
    step: int | None = None
    steps: int | None = None
    message: str | None = None


class ComfyOutput(ResponseBody):
    """An output, which is an asset of the same id. `url` needs no key, until it expires."""

    node_id: str
    name: str
    type: str
    content_type: str
    size_bytes: int
    id: str
    hash: str | None
    url: str
    url_expires_at: Moment
    job_id: str


class ComfyJobError(ResponseBody):
    code: str
    message: str
    node_id: str | None
    class_type: str | None
    traceback: str | None


class ComfyJobUrls(ResponseBody):
    """Relative to the host that was asked: the SDKs send their key to no other."""

    self: str
    events: str
    cancel: str
    logs: str


class ComfyJob(ResponseBody):
    """The whole job. Every member is always there."""

    id: str
    status: str
    created_at: Moment
    started_at: Moment | None
    completed_at: Moment | None
    expires_at: Moment
    queue_position: int | None
    progress: ComfyProgress | None
    outputs: list[ComfyOutput]
    error: ComfyJobError | None
    metrics: dict[str, int | None]
    metadata: dict[str, str]
    urls: ComfyJobUrls


def comfy_status(record: JobRecord) -> str:
    """Return the job's status in the words of this API."""
    match record.status:
        case Status.QUEUED:
            return "queued"
        case Status.RUNNING:
            return "running" if record.cancel_requested_at is None else "canceling"
        case Status.COMPLETED:
            return "succeeded"
    return _ENDS.get(record.error_code or "", "failed")


def comfy_job(
    record: JobRecord, objects: ObjectStore, config: ApiConfig, *, mount: str, queue_position: int | None
) -> ComfyJob:
    """Return the whole job. `mount` is the path under which this API is served, without `/api/v2`."""
    return ComfyJob(
        id=record.job_id,
        status=comfy_status(record),
        created_at=record.created_at,
        started_at=record.started_at,
        completed_at=record.completed_at,
        # Never null in this API: an unfinished job shows when it is removed at the latest if it never starts.
        expires_at=record.due_at if record.status.is_terminal else record.longest_life,
        queue_position=queue_position,
        progress=comfy_progress(record),
        outputs=[comfy_output(record, output, objects, config) for output in record.outputs],
        error=None if record.error_detail is None else _error(record.error_detail),
        metrics=_metrics(record),
        metadata=record.metadata,
        urls=comfy_urls(record.job_id, mount),
    )


def comfy_urls(job_id: str, mount: str) -> ComfyJobUrls:
    url = f"{mount}/api/v2/jobs/{job_id}"
    return ComfyJobUrls(self=url, events=f"{url}/events", cancel=f"{url}/cancel", logs=f"{url}/logs")


def comfy_progress(record: JobRecord) -> ComfyProgress | None:
    """Return the progress of the current attempt, or None before the first and between two."""
    if record.attempt == 0 or record.status is Status.QUEUED:
        return None
    details = record.progress_details
    step, _, steps = (details.step or "").partition("/")
    has_steps = step.isdecimal() and steps.isdecimal()
    return ComfyProgress(
        value=record.progress / 100,
        nodes_done=details.nodes_completed,
        nodes_total=details.nodes_total,
        current_node=details.current_node,
        step=int(step) if has_steps else None,
        steps=int(steps) if has_steps else None,
    )


def comfy_output(record: JobRecord, output: Output, objects: ObjectStore, config: ApiConfig) -> ComfyOutput:
    """Return an output of the record with a fresh presigned URL."""
    signed = output_url(output, objects, config)
    return ComfyOutput(
        node_id=output.node_id,
        name=output.filename,
        type=_OUTPUT_TYPES.get(output.type, output.type),
        content_type=output.content_type,
        size_bytes=output.size_bytes,
        id=str(OutputId.of(record.job_id, output)),
        hash=None,  # that of this API is blake3; clients take null for "not computed"
        url=signed.url,
        url_expires_at=signed.url_expires_at,
        job_id=record.job_id,
    )


def _error(error: ErrorDetail) -> ComfyJobError:
    return ComfyJobError(
        code=_ERROR_CODES.get(error.code, error.code),
        message=error.message,
        node_id=error.node_id,
        class_type=error.class_type,
        traceback=None,
    )


def _metrics(record: JobRecord) -> dict[str, int | None]:
    started, ended = record.started_at, record.completed_at
    queued = None if started is None else round((started - record.created_at).total_seconds() * 1000)
    executed = None if started is None or ended is None else round((ended - started).total_seconds() * 1000)
    return {"queue_ms": queued, "execution_ms": executed}

"""The job as responses and events show it: the models, and their conversion from the record."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from app.config import ApiConfig
from app.fields import Moment, ResponseBody
from storage.bucket.objects import ObjectStore
from storage.jobs.models import ErrorDetail, Output, OutputType, Runtime, total_seconds, total_usd
from storage.jobs.output_ids import OutputId
from storage.jobs.record import JobRecord, Status, WorkflowFormat
from storage.keys import DEFAULT_POOL
from workflows.policy import GraphTrust

QUICKLY_SHOWN = 20
"""Outputs that are rendered on the event loop, in 0.6 ms; the 1,000 that a job may have take 30 ms, in a thread."""


class NodeWarning(ResponseBody):
    """Why the outputs that depend on a node do not run: as in ComfyUI's `node_errors`, and in our own words."""

    class_type: str | None
    dependent_outputs: list[str] = Field(description="the output nodes that do not run")
    errors: list[dict[str, Any]]
    detail: str
    hint: str


class JobUrls(ResponseBody):
    """Where the job is to be found."""

    self: str
    cancel: str
    workflow: str
    logs: str
    events: str


class OutputView(ResponseBody):
    """A file that the job made. `url` needs no key, until it expires."""

    filename: str = Field(description="unlike that of every other output of the job")
    subfolder: str = Field(description="where the node put it, below ComfyUI's folder; empty for that folder itself")
    type: OutputType
    is_preview: bool = Field(description="whether it was a temporary file, as PreviewImage writes")
    node_id: str
    size_bytes: int
    content_type: str
    sha256: str
    asset_id: str = Field(description="names the output as an input of another job, `media[].asset_id`")
    url: str
    url_expires_at: Moment
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    frames: int | None = None
    text: str | None = Field(None, description="the content of a short text, 256 KiB of them in all")


class OutputUrl(ResponseBody):
    url: str
    url_expires_at: Moment


class ProgressView(ResponseBody):
    current_node: str | None
    nodes_completed: int
    nodes_total: int
    step: str | None = Field(description="the current sampler's, as 12/49")


class ErrorView(ResponseBody):
    code: str
    message: str
    node_id: str | None
    class_type: str | None
    exception_type: str | None
    attempt: int | None
    node_errors: dict[str, Any] | None
    retryable: bool = Field(description="the same job may well succeed another time")
    log_tail: list[str] | None = Field(description="the engine's last lines, where its worker was lost")


class RuntimeView(ResponseBody):
    """What the last attempt runs on, or ran on."""

    worker: str
    gpu: str | None = Field(description="as Modal calls it, or the driver")
    attention: str | None = Field(description="sage or sdpa; null where it is not ours to choose")
    engine_version: str | None


class NodeTimeView(ResponseBody):
    """How long a node ran, until the next one began."""

    node_id: str
    class_type: str | None = Field(description="null for a node that the graph does not have, as of an expanded one")
    seconds: float
    cached: bool = Field(description="ComfyUI had its result")


class TimingsView(ResponseBody):
    """Where the time of the last attempt went, in seconds. What is not known yet is null."""

    start: dict[str, float] | None = Field(
        description="seconds of each phase of its worker's start; null for a job that found its worker ready"
    )
    queued_s: float | None = Field(description="from the submission to the attempt's begin")
    staged_s: float | None = Field(description="from there to the engine's begin: reading the job and its files")
    executed_s: float | None = Field(description="from there until the engine was free for the next job")
    uploaded_s: float | None = Field(description="from there until the last output was stored")
    committed_s: float | None = Field(description="from there until the job's end was written")
    gpu_idle_s: float | None = Field(description="how long the engine had waited when it began with this job")
    nodes: list[NodeTimeView] = Field(description="the 100 slowest nodes, in the order in which they ran")
    nodes_left_out: int = Field(description="how many nodes `nodes` does not list")


class GpuCost(ResponseBody):
    gpu: str | None
    gpu_seconds: float
    usd: float | None


class CostView(ResponseBody):
    """How long workers held the job in all its attempts, and what their GPUs cost meanwhile."""

    gpu: str | None = Field(description="the last one that was used; null without one")
    gpu_seconds: float = Field(description="without a GPU the same, of the worker")
    usd: float | None = Field(description="at the prices of the time; null where one of them is not known")
    by_gpu: list[GpuCost]


class JobView(ResponseBody):
    """The whole job."""

    job_id: str
    status: Status
    created_at: Moment
    started_at: Moment | None
    completed_at: Moment | None
    cancel_requested_at: Moment | None
    progress: int = Field(ge=0, le=100)
    progress_details: ProgressView
    outputs: list[OutputView]
    error: str | None
    error_detail: ErrorView | None
    warnings: dict[str, NodeWarning] = Field(description="by node id: the outputs behind it do not run, the others do")
    last_fault: ErrorView | None = Field(description="why the attempt before had to be repeated")
    priority: int
    timeout_s: int
    queue_timeout_s: int | None
    deadline_s: int | None
    attempt: int
    gpu: str | None = Field(description="the GPU pool that was asked for")
    runtime: RuntimeView | None = Field(description="null until a worker has begun the job")
    timings: TimingsView
    cost: CostView
    expires_at: Moment | None = Field(description="when the job and its files are removed")
    batch_id: str | None
    retry_of: str | None = Field(description="the job that this one repeats")
    retried_as: list[str] = Field(description="the newest jobs that repeat this one, oldest first; 20 at most")
    workflow_name: str | None = Field(description="the named workflow that it runs; null for a graph of your own")
    workflow_format: WorkflowFormat = Field(description="how the workflow was submitted; editor: it was converted")
    graphs: GraphTrust = Field(description="the rules that its graph was accepted by")
    metadata: dict[str, str]
    urls: JobUrls


def job_urls(job_id: str, base: str) -> JobUrls:
    url = f"{base}/v1/jobs/{job_id}"
    return JobUrls(self=url, cancel=url, workflow=f"{url}/workflow", logs=f"{url}/logs", events=f"{url}/events")


def job_view(record: JobRecord, objects: ObjectStore, config: ApiConfig, base: str) -> JobView:
    """Return the whole job. Each output gets a fresh presigned URL, which is computed without a bucket request."""
    return JobView(
        job_id=record.job_id,
        status=record.status,
        created_at=record.created_at,
        started_at=record.started_at,
        completed_at=record.completed_at,
        cancel_requested_at=record.cancel_requested_at,
        progress=record.progress,
        progress_details=ProgressView.model_validate(record.progress_details.model_dump()),
        outputs=[output_view(record.job_id, output, objects, config) for output in record.outputs],
        error=record.error,
        error_detail=error_view(record.error_detail),
        warnings=warnings_view(record.warnings),
        last_fault=error_view(record.last_fault),
        priority=record.priority,
        timeout_s=record.timeout_s,
        queue_timeout_s=record.queue_timeout_s,
        deadline_s=record.deadline_s,
        attempt=record.attempt,
        gpu=None if record.pool == DEFAULT_POOL else record.pool,
        runtime=_runtime_view(record.runtime),
        timings=timings_view(record),
        cost=cost_view(record),
        expires_at=record.due_at if record.status.is_terminal else None,
        batch_id=record.batch_id,
        retry_of=record.retry_of,
        retried_as=list(record.retried_as),
        workflow_name=record.workflow_name,
        workflow_format=record.workflow_format,
        graphs=record.graphs,
        metadata=record.metadata,
        urls=job_urls(record.job_id, base),
    )


def timings_view(record: JobRecord) -> TimingsView:
    times, started_at = record.times, record.started_at
    committed_s = None
    if times is not None and started_at is not None and record.completed_at is not None:
        known_s = times.staged_s + times.executed_s + times.uploaded_s
        committed_s = _seconds((record.completed_at - started_at).total_seconds() - known_s)
    return TimingsView(
        start=record.runtime.start if record.runtime else None,
        queued_s=None if started_at is None else _seconds((started_at - record.created_at).total_seconds()),
        staged_s=times and times.staged_s,
        executed_s=times and times.executed_s,
        uploaded_s=times and times.uploaded_s,
        committed_s=committed_s,
        gpu_idle_s=times and times.gpu_idle_s,
        nodes=[NodeTimeView.model_validate(one.model_dump()) for one in times.nodes] if times else [],
        nodes_left_out=times.nodes_left_out if times else 0,
    )


def _seconds(seconds: float) -> float:
    return round(max(0.0, seconds), 3)


def warnings_view(warnings: Mapping[str, Any]) -> dict[str, NodeWarning]:
    return {node_id: NodeWarning.model_validate(warning) for node_id, warning in warnings.items()}


def _runtime_view(runtime: Runtime | None) -> RuntimeView | None:
    return None if runtime is None else RuntimeView.model_validate(runtime.model_dump(exclude={"usd_per_s", "start"}))


def cost_view(record: JobRecord) -> CostView:
    spent = record.gpu_time
    return CostView(
        gpu=spent[-1].gpu if spent else None,
        gpu_seconds=total_seconds(spent),
        usd=total_usd(spent),
        by_gpu=[GpuCost(gpu=one.gpu, gpu_seconds=one.seconds, usd=one.usd) for one in spent],
    )


def error_view(error: ErrorDetail | None) -> ErrorView | None:
    return None if error is None else ErrorView.model_validate(error.model_dump())


def output_url(output: Output, objects: ObjectStore, config: ApiConfig) -> OutputUrl:
    signed = objects.presign_get(
        output.key,
        expires_s=config.output_expires_s,
        filename=output.filename,
        content_type=output.content_type,
    )
    return OutputUrl(url=signed.url, url_expires_at=signed.expires_at)


def output_view(job_id: str, output: Output, objects: ObjectStore, config: ApiConfig) -> OutputView:
    signed = output_url(output, objects, config)
    asset_id = str(OutputId.of(job_id, output))
    return OutputView(**output.model_dump(exclude={"key"}), asset_id=asset_id, **signed.model_dump())

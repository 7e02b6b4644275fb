"""The shapes of the API's answers about jobs and batches. Answers may get new members.

Times are ISO 8601 in UTC. What is not described here, such as the answers about workflows, nodes and deliveries, is
described by the API's reference alone.
"""

from typing import Any, Literal, TypedDict

JobStatus = Literal["queued", "running", "completed", "failed"]
BatchStatus = Literal["queued", "running", "finished"]


class Output(TypedDict):
    """A file that a job made."""

    filename: str
    """Unlike that of every other output of the job."""
    subfolder: str
    """Where the node put it, below ComfyUI's folder."""
    type: str
    """`image`, `video`, `audio` and others."""
    is_preview: bool
    """Whether it was a temporary file, as PreviewImage writes."""
    node_id: str
    size_bytes: int
    content_type: str
    sha256: str
    asset_id: str
    """Names the output as an input of another job: `media[].asset_id`."""
    url: str
    """A presigned URL, which needs no key until `url_expires_at`."""
    url_expires_at: str
    width: int | None
    height: int | None
    duration_s: float | None
    frames: int | None
    text: str | None
    """The content of a short text."""


class ProgressDetails(TypedDict):
    """How far a job is."""

    current_node: str | None
    nodes_completed: int
    nodes_total: int
    step: str | None
    """The current sampler's, as `12/49`."""


class JobError(TypedDict):
    """Why a job, or an attempt of it, failed."""

    code: str
    """A stable code: `node_failed`, `timeout`, `cancelled` and others."""
    message: str
    node_id: str | None
    class_type: str | None
    exception_type: str | None
    attempt: int | None
    node_errors: dict[str, Any] | None
    retryable: bool
    """Whether the same job may well succeed another time."""
    log_tail: list[str] | None


class NodeWarning(TypedDict):
    """Why the outputs that depend on a node do not run."""

    class_type: str | None
    dependent_outputs: list[str]
    errors: list[dict[str, Any]]
    """What ComfyUI says."""
    detail: str
    hint: str


class Runtime(TypedDict):
    """What the last attempt of a job runs on, or ran on."""

    worker: str
    gpu: str | None
    attention: str | None
    engine_version: str | None


class NodeTime(TypedDict):
    """How long a node ran, until the next one began."""

    node_id: str
    class_type: str | None
    """None for a node that the graph does not have, as of an expanded one."""
    seconds: float
    cached: bool
    """Whether ComfyUI had its result."""


class Timings(TypedDict):
    """Where the time of the last attempt went, in seconds. What is not known yet is None."""

    start: dict[str, float] | None
    """Seconds of each phase of its worker's start. None for a job that found its worker ready."""
    queued_s: float | None
    """From the submission to the beginning of the attempt."""
    staged_s: float | None
    """From there to the beginning of the execution: reading the job and its files."""
    executed_s: float | None
    """From there until the engine was free for the next job."""
    uploaded_s: float | None
    """From there until the last output was stored."""
    committed_s: float | None
    """From there until the job's end was written."""
    gpu_idle_s: float | None
    """How long the engine had waited when it began with this job."""
    nodes: list[NodeTime]
    """The 100 slowest nodes, in the order in which they ran."""
    nodes_left_out: int
    """How many nodes `nodes` does not list."""


class GpuCost(TypedDict):
    """The part of a cost on one kind of GPU."""

    gpu: str | None
    gpu_seconds: float
    usd: float | None


class Cost(TypedDict):
    """How long workers held a job, and what their GPUs cost meanwhile, in US dollars if the price is known."""

    gpu: str | None
    gpu_seconds: float
    usd: float | None
    by_gpu: list[GpuCost]


class JobUrls(TypedDict):
    """Where a job is to be found."""

    self: str
    cancel: str
    workflow: str
    logs: str
    events: str


class AcceptedJob(TypedDict):
    """A job that was just submitted."""

    job_id: str
    status: JobStatus
    created_at: str
    estimated_time: int
    """Seconds, from recent jobs of this workflow."""
    workflow_format: str
    """`editor` if the workflow was made of a file of ComfyUI's editor, else `api`."""
    warnings: dict[str, NodeWarning]
    """By node id: the outputs that depend on it do not run, the others do."""
    urls: JobUrls


class Job(TypedDict):
    """The whole job."""

    job_id: str
    status: JobStatus
    created_at: str
    started_at: str | None
    completed_at: str | None
    cancel_requested_at: str | None
    progress: int
    """Percent."""
    progress_details: ProgressDetails
    outputs: list[Output]
    error: str | None
    """Why it failed, in a sentence."""
    error_detail: JobError | None
    warnings: dict[str, NodeWarning]
    last_fault: JobError | None
    """Why the attempt before had to be repeated."""
    priority: int
    timeout_s: int
    queue_timeout_s: int | None
    deadline_s: int | None
    attempt: int
    gpu: str | None
    """The GPU pool that was asked for."""
    runtime: Runtime | None
    timings: Timings
    cost: Cost
    expires_at: str | None
    """When the job and its files are removed."""
    batch_id: str | None
    retry_of: str | None
    """The job that this one repeats."""
    retried_as: list[str]
    """The newest jobs that repeat this one, oldest first."""
    workflow_name: str | None
    """The workflow that it runs by name. None for a graph."""
    workflow_format: str
    """`editor` if the workflow was made of a file of ComfyUI's editor, else `api`."""
    graphs: str
    """The rules by which its graph was accepted: `own` or `strangers`."""
    metadata: dict[str, str]
    urls: JobUrls


class JobRow(TypedDict):
    """A job in a list."""

    job_id: str
    status: JobStatus
    created_at: str
    completed_at: str | None
    progress: int
    error_code: str | None
    metadata: dict[str, str]
    workflow_name: str | None
    batch_id: str | None
    has_warnings: bool
    workflow_shape: str
    """The same for workflows of the same classes and links."""
    cost: Cost


class JobPage(TypedDict):
    """A page of jobs, newest first."""

    jobs: list[JobRow]
    next_cursor: str | None


class BatchJob(TypedDict):
    """A job of a batch."""

    job_id: str
    status: JobStatus | Literal["removed"]
    has_warnings: bool


class BatchUrls(TypedDict):
    """Where a batch is to be found."""

    self: str
    cancel: str


class BatchRow(TypedDict):
    """A batch in a list."""

    batch_id: str
    status: BatchStatus
    created_at: str
    cancel_requested_at: str | None
    total: int
    counts: dict[str, int]
    """Jobs by status, `removed` included."""
    metadata: dict[str, str]
    urls: BatchUrls


class Batch(BatchRow):
    """A batch with its jobs, in the order of the request."""

    jobs: list[BatchJob]


class BatchPage(TypedDict):
    """A page of batches, newest first."""

    batches: list[BatchRow]
    next_cursor: str | None

"""The request and response bodies of jobs."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SecretStr,
    field_validator,
)

from app.numbers import Number, Whole
from app.wire.base import (
    DEFAULT_EVENTS,
    LONGEST_QUEUE_TIMEOUT_S,
    LONGEST_RETAIN_DAYS,
    LONGEST_TIMEOUT_S,
    MAX_PARTNER_KEY,
    Answer,
    Few,
    Many,
    MetadataName,
    MetadataText,
    Moment,
    NodeId,
    Request,
    WebhookUrl,
)
from storage.index_keys import MAX_PRIORITY, MIN_PRIORITY
from storage.jobs.models import EventName, OutputType
from storage.jobs.record import Status
from workflows.policy import GraphTrust


class InputValue(Request):
    """One value to set in the workflow."""

    node: NodeId = Field(description="id of the node", examples=["16"])
    field: NodeId = Field(description="name of its input", examples=["positive_prompt"])
    value: Any = Field(description="the value; base64 or a URL for the image types")
    type: Literal["raw", "image_base64", "image_url"] = Field(
        "raw", description="image types save the image as an input file and set the field to its name"
    )

    @field_validator("node", "field", mode="before")
    @classmethod
    def _numbers_are_names(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class MediumSource(Request):
    """A file that the workflow loads by `name`; exactly one of the sources is given."""

    name: str = Field(description="as the loader node names it; folders are allowed", examples=["input.png"])
    data: str | None = Field(None, description="the bytes in base64, at most 50 MB")
    url: str | None = Field(None, description="a public URL of the bytes, at most 50 MB")
    upload_id: str | None = Field(None, description="an upload of POST /v1/uploads, at most 5 GiB")


class ExtraData(Request):
    """What goes to the engine with the graph."""

    api_key_comfy_org: SecretStr = Field(
        min_length=1,
        max_length=MAX_PARTNER_KEY,
        description="your key of Comfy.org, for its partner nodes; never shown",
    )


class JobOptions(Request):
    """How a job is run, whatever it computes."""

    media: Many[MediumSource] = Field(default_factory=list)
    priority: Whole = Field(0, ge=MIN_PRIORITY, le=MAX_PRIORITY, description="higher runs first")
    timeout_s: Whole | None = Field(
        None, ge=1, le=LONGEST_TIMEOUT_S, description="longest run time of one attempt, seconds"
    )
    queue_timeout_s: Whole | None = Field(
        None, ge=1, le=LONGEST_QUEUE_TIMEOUT_S, description="longest wait for a worker, seconds"
    )
    retain_days: Number | None = Field(
        None, gt=0, le=LONGEST_RETAIN_DAYS, description="how long the job and its files stay after its end"
    )
    strict: bool = Field(
        default=False, description="refuse the job if some of its outputs cannot run, instead of running the others"
    )
    gpu: str | None = Field(None, max_length=64, description="which of the deployment's GPU pools runs it")
    metadata: Annotated[dict[MetadataName, MetadataText], Few] = Field(
        default_factory=dict, description="your own labels, given back with the job"
    )
    extra_data: ExtraData | None = Field(None, description="ComfyUI's `extra_data`: goes to the engine alone")
    webhook_url: WebhookUrl | None = Field(None, description="where events are sent")
    webhook_secret: str | None = Field(
        None, max_length=200, description="`whsec_…` that signs this job's events instead of yours"
    )
    webhook_events: Many[EventName] = Field(
        default_factory=lambda: list(DEFAULT_EVENTS), description="which events are sent"
    )


class JobRequest(JobOptions):
    """What POST /v1/jobs takes."""

    workflow: Any = Field(description="ComfyUI's API-format graph")
    inputs: Many[InputValue] = Field(default_factory=list)


class NodeWarning(Answer):
    """Why the outputs that depend on a node do not run: as in ComfyUI's `node_errors`, and in our own words."""

    class_type: str | None
    dependent_outputs: list[str] = Field(description="the output nodes that do not run")
    errors: list[dict[str, Any]]
    detail: str
    hint: str


class JobUrls(Answer):
    """Where the job is to be found."""

    self: str
    cancel: str
    workflow: str
    logs: str


class JobAccepted(Answer):
    """202: the job is stored, and will end in exactly one way."""

    job_id: str
    status: Status
    created_at: Moment
    estimated_time: int = Field(description="seconds, from recent jobs of this workflow")
    warnings: dict[str, NodeWarning] = Field(description="by node id: the outputs behind it do not run, the others do")
    urls: JobUrls


class OutputView(Answer):
    """A file that the job made. `url` needs no key, until it expires."""

    filename: str = Field(description="unlike that of every other output of the job")
    subfolder: str = Field(description="where the node put it, below ComfyUI's folder; empty for that folder itself")
    type: OutputType
    is_preview: bool = Field(description="whether it was a temporary file, as PreviewImage writes")
    node_id: str
    size_bytes: int
    content_type: str
    sha256: str
    url: str
    url_expires_at: Moment
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    frames: int | None = None
    text: str | None = Field(None, description="the content of a short text, 256 KiB of them in all")


class OutputUrl(Answer):
    url: str
    url_expires_at: Moment


class ProgressView(Answer):
    current_node: str | None
    nodes_completed: int
    nodes_total: int
    step: str | None = Field(description="the current sampler's, as 12/49")


class ErrorView(Answer):
    code: str
    message: str
    node_id: str | None
    class_type: str | None
    exception_type: str | None
    attempt: int | None
    node_errors: dict[str, Any] | None
    retryable: bool = Field(description="the same job may well succeed another time")
    log_tail: list[str] | None = Field(description="the engine's last lines, where its worker was lost")


class RuntimeView(Answer):
    """What the last attempt runs on, or ran on."""

    worker: str
    gpu: str | None = Field(description="as Modal calls it, or the driver")
    attention: str | None = Field(description="sage or sdpa; null where it is not ours to choose")
    engine_version: str | None


class TimingsView(Answer):
    """Where the time before the last attempt went."""

    start: dict[str, float] | None = Field(
        description="seconds of each phase of its worker's start; null for a job that found its worker ready"
    )


class GpuCost(Answer):
    gpu: str | None
    gpu_seconds: float
    usd: float | None


class CostView(Answer):
    """How long workers held the job in all its attempts, and what their GPUs cost meanwhile."""

    gpu: str | None = Field(description="the last one that was used; null without one")
    gpu_seconds: float = Field(description="without a GPU the same, of the worker")
    usd: float | None = Field(description="at the prices of the time; null where one of them is not known")
    by_gpu: list[GpuCost]


class JobView(Answer):
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
    attempt: int
    gpu: str | None = Field(description="the GPU pool that was asked for")
    runtime: RuntimeView | None = Field(description="null until a worker has begun the job")
    timings: TimingsView
    cost: CostView
    expires_at: Moment | None = Field(description="when the job and its files are removed")
    batch_id: str | None
    graphs: GraphTrust = Field(description="the rules that its graph was accepted by")
    metadata: dict[str, str]
    urls: JobUrls


class JobRow(Answer):
    job_id: str
    status: Status
    created_at: Moment
    progress: int
    has_warnings: bool = Field(description="whether some of its outputs do not run")
    workflow_shape: str = Field(description="the same for workflows of the same classes and links")
    cost: CostView


class JobList(Answer):
    jobs: list[JobRow]
    next_cursor: str | None = Field(description="pass it as cursor for the next page")

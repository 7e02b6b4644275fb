"""The bodies of requests and answers, as clients see them. What is stored is another thing (`storage.jobs.record`)."""

from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    StringConstraints,
    field_validator,
)

from storage.hint_keys import MAX_PRIORITY, MIN_PRIORITY
from storage.jobs.record import DAY_S, Status
from storage.jobs.values import EventName, OutputType

DEFAULT_EVENTS: tuple[EventName, ...] = ("completed", "failed")

Moment = Annotated[
    datetime, PlainSerializer(lambda moment: moment.isoformat(timespec="microseconds"), when_used="json")
]
"""As the first version wrote times, 2025-09-19T17:42:00.123456+00:00: older parsers do not know Z."""

MAX_METADATA_NAME, MAX_METADATA_TEXT = 64, 512
MAX_URL = 2048
MAX_IDEMPOTENCY_KEY = 255
MAX_PARTNER_KEY = 512
MAX_REPLAYED = 1000

NodeId = Annotated[str, StringConstraints(min_length=1, max_length=200)]
MetadataText = Annotated[str, StringConstraints(max_length=MAX_METADATA_TEXT)]


def _of_a_receiver(url: str) -> str:
    """As far as a look at it tells; where it leads is checked whenever something is sent. ValueError otherwise."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        raise ValueError("not an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with credentials; the receiver knows us by the signature")
    if parts.port == 0:  # one out of range raises
        raise ValueError("a URL without a usable port")
    return url


WebhookUrl = Annotated[str, StringConstraints(max_length=MAX_URL), AfterValidator(_of_a_receiver)]
LONGEST_QUEUE_TIMEOUT_S = 30 * DAY_S


class _Request(BaseModel):
    """An unknown field is refused: it is a typing error, or a wish that would silently not come true."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class InputValue(_Request):
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


class MediumSource(_Request):
    """A file that the workflow loads by `name`; exactly one of the sources is given."""

    name: str = Field(description="as the loader node names it", examples=["input.png"])
    data: str | None = Field(None, description="the bytes in base64, at most 50 MB")
    url: str | None = Field(None, description="a public URL of the bytes, at most 50 MB")
    upload_id: str | None = Field(None, description="an upload of POST /v1/uploads, at most 5 GiB")


class ExtraData(_Request):
    """What goes to the engine with the graph."""

    api_key_comfy_org: SecretStr = Field(
        min_length=1,
        max_length=MAX_PARTNER_KEY,
        description="your key of Comfy.org, for its partner nodes; never shown",
    )


class JobOptions(_Request):
    """How a job is run, whatever it computes."""

    media: list[MediumSource] = Field(default_factory=list)
    priority: int = Field(0, ge=MIN_PRIORITY, le=MAX_PRIORITY, description="higher runs first")
    timeout_s: int | None = Field(None, ge=1, description="longest run time of one attempt, seconds")
    queue_timeout_s: int | None = Field(
        None, ge=1, le=LONGEST_QUEUE_TIMEOUT_S, description="longest wait for a worker, seconds"
    )
    retain_days: float | None = Field(None, gt=0, description="how long the job and its files stay after its end")
    gpu: str | None = Field(None, max_length=64, description="which of the deployment's GPU pools runs it")
    metadata: dict[Annotated[str, StringConstraints(min_length=1, max_length=MAX_METADATA_NAME)], MetadataText] = Field(
        default_factory=dict, description="your own labels, given back with the job"
    )
    extra_data: ExtraData | None = Field(None, description="ComfyUI's `extra_data`: goes to the engine alone")
    webhook_url: WebhookUrl | None = Field(None, description="where events are sent")
    webhook_secret: str | None = Field(
        None, max_length=200, description="`whsec_…` that signs this job's events instead of yours"
    )
    webhook_events: list[EventName] = Field(
        default_factory=lambda: list(DEFAULT_EVENTS), description="which events are sent"
    )


class JobRequest(JobOptions):
    """What POST /v1/jobs takes."""

    workflow: Any = Field(description="ComfyUI's API-format graph")
    inputs: list[InputValue] = Field(default_factory=list)


class BatchRequest(JobOptions):
    """What POST /v1/batches takes: `workflow` and `input_sets`, or `jobs`."""

    workflow: Any = Field(None, description="ComfyUI's API-format graph, of every job")
    input_sets: list[list[InputValue]] | None = Field(None, description="the inputs of one job each")
    jobs: list[JobRequest] | None = Field(None, description="whole jobs instead")


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
    urls: JobUrls


class OutputView(Answer):
    """A file that the job made. `url` needs no key, until it expires."""

    filename: str
    type: OutputType
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
    text: str | None = Field(None, description="the content of a short text")


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
    last_fault: ErrorView | None = Field(description="why the attempt before had to be repeated")
    priority: int
    timeout_s: int
    queue_timeout_s: int | None
    attempt: int
    gpu: str | None = Field(description="the GPU pool that was asked for")
    runtime: RuntimeView | None = Field(description="null until a worker has begun the job")
    cost: CostView
    expires_at: Moment | None = Field(description="when the job and its files are removed")
    batch_id: str | None
    metadata: dict[str, str]
    urls: JobUrls


class JobRow(Answer):
    job_id: str
    status: Status
    created_at: Moment
    progress: int
    workflow_shape: str = Field(description="the same for workflows of the same classes and links")
    cost: CostView


class JobList(Answer):
    jobs: list[JobRow]
    next_cursor: str | None = Field(description="pass it as cursor for the next page")


class BatchUrls(Answer):
    self: str
    cancel: str


class BatchJob(Answer):
    """`removed` once its time was over."""

    job_id: str
    status: Status | Literal["removed"]


class BatchView(Answer):
    """`counts` by status, `removed` included; `status` is finished when every job is over."""

    batch_id: str
    status: Literal["queued", "running", "finished"]
    created_at: Moment
    cancel_requested_at: Moment | None
    total: int
    counts: dict[str, int]
    jobs: list[BatchJob] = Field(description="in the order of the request")
    metadata: dict[str, str]
    urls: BatchUrls


class UploadRequest(_Request):
    """A file to be uploaded by presigned PUT."""

    size_bytes: int = Field(ge=1, description="exactly as many bytes as will be sent")
    content_type: str = Field(
        "application/octet-stream", pattern=r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+$", max_length=200
    )
    filename: str | None = Field(None, max_length=255, description="for your own records")


class UploadCreated(Answer):
    """Send `method` to `url` with exactly these headers."""

    upload_id: str
    method: str
    url: str
    headers: dict[str, str]
    expires_at: Moment


class AttemptView(Answer):
    """One POST to the receiver. `status` is the answer's; `error` says why there was none."""

    number: int
    at: Moment
    status: int | None
    duration_ms: int
    error: str | None
    excerpt: str | None = Field(description="the first 4 KB of the answer")


class DeliveryView(Answer):
    """How the delivery of one event went."""

    event_id: str = Field(description="the CloudEvent's id, and the webhook-id")
    type: str
    sequence: int
    url: str
    status: Literal["pending", "delivered", "dead"]
    reason: str | None = Field(description="why it was given up")
    next_at: Moment | None = Field(description="when it is tried next")
    attempts: list[AttemptView]


class DeliveryList(Answer):
    deliveries: list[DeliveryView]


class DeadLetterList(Answer):
    dead_letters: list[DeliveryView]
    next_cursor: str | None = Field(description="pass it as cursor for the next page")


class ReplayRequest(_Request):
    """Which dead letters are sent again; all of them unless they are named."""

    event_ids: list[str] | None = Field(None, max_length=MAX_REPLAYED)


class Replayed(Answer):
    replayed: list[str] = Field(description="the ids of the events that are sent again")


class WebhookTestRequest(_Request):
    url: WebhookUrl = Field(description="the receiver to try")


class EndpointView(Answer):
    """How a receiver has been doing."""

    url: str
    state: Literal["closed", "open", "disabled"] = Field(description="open: left alone until open_until")
    failures: int = Field(description="in a row")
    failing_since: Moment | None
    last_success_at: Moment | None
    open_until: Moment | None
    disabled_reason: str | None


class EndpointList(Answer):
    endpoints: list[EndpointView]


class WebhookKeys(Answer):
    keys: list[str] = Field(description="ed25519 public keys, as whpk_…")


class Health(Answer):
    status: Literal["ok"]
    version: str = Field(description="of this API's code")


class Ready(Answer):
    status: Literal["ready", "not_ready"]
    detail: str


class ProblemView(Answer):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    hint: str
    pointer: str | None = None
    errors: list[dict[str, str]] | None = Field(
        default=None, description="every fault: pointer, detail, and for those of a graph type and hint"
    )
    node_errors: dict[str, Any] | None = Field(
        default=None,
        description="the faults of a graph as ComfyUI's POST /prompt words them: by node id {errors: [{type, message, "
        "details, extra_info}], dependent_outputs, class_type}",
    )

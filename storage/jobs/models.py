"""The parts of a job's record, as frozen values, and the sum of its GPU time."""

from datetime import datetime
from typing import Any, Literal

from storage.bucket.records import EngineText, Model

EventName = Literal["queued", "started", "progress", "output", "completed", "failed"]
OutputType = Literal["image", "video", "audio", "text", "model", "file"]

BATCH_TYPE = "comfyui.batch.finished.v1"
TEST_TYPE = "comfyui.webhook.test.v1"


def job_event_type(name: EventName) -> str:
    """Return the CloudEvent's `type`."""
    return f"comfyui.job.{name}.v1"


class Input(Model):
    """One value to set in the submitted graph. For an input file, `value` is its file name."""

    node: str
    field: str
    value: Any


class InputFile(Model):
    """An input file that ComfyUI must find in its input folder under `name`; the bucket has its bytes under `key`."""

    name: str
    key: str
    size_bytes: int
    content_type: str


class Output(Model):
    """A file that a node produced, stored under `key`. `text` repeats the content of a short text.

    `filename` is unique among the attempt's outputs. `subfolder` is the node's folder below ComfyUI's output folder.
    `is_preview`: the file was in ComfyUI's folder for temporary files.
    """

    filename: str
    subfolder: str = ""
    type: OutputType
    is_preview: bool = False
    node_id: EngineText
    key: str
    size_bytes: int
    content_type: str
    sha256: str
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    frames: int | None = None
    text: str | None = None


class ProgressDetails(Model):
    """`step` is the step of the current sampler, such as "12/49"."""

    current_node: EngineText | None = None
    nodes_completed: int = 0
    nodes_total: int = 0
    step: str | None = None


class ErrorDetail(Model):
    """Why a job failed. `code` is stable, `message` is for people; the node fields name the node that failed.

    `retryable`: the fault was not the job's own, so it may succeed another time. `log_tail` has the engine's last lines
    if the worker was lost.
    """

    code: str
    message: str
    node_id: EngineText | None = None
    class_type: EngineText | None = None
    exception_type: EngineText | None = None
    attempt: int | None = None
    node_errors: dict[str, Any] | None = None
    retryable: bool = False
    log_tail: tuple[str, ...] | None = None


class JobEvent(Model):
    """A webhook event, committed together with the change it reports. Immutable.

    Events are numbered by `sequence`; `rev` is the revision that the event was to be committed with. The event keeps
    what the record later loses: the progress, and the keys of the new outputs. Positions would not do, since uploads
    end in any order.
    """

    sequence: int
    rev: int = 0
    name: EventName
    time: datetime
    attempt: int
    progress: int | None = None
    progress_details: ProgressDetails | None = None
    outputs: tuple[str, ...] = ()


class Lease(Model):
    """The worker that runs the job, the lease's expiry and its last renewal."""

    worker: str
    expires_at: datetime
    renewed_at: datetime | None = None


class Runtime(Model):
    """The machine and engine of an attempt, as reported by its worker. `gpu` is None without one, or if it is unknown.

    `usd_per_s` is the GPU's price when the attempt began, so that a later price does not change the job's cost. `start`
    has the seconds of each phase of the worker's start; None if the worker was ready before the job.
    """

    worker: str
    gpu: EngineText | None = None
    attention: EngineText | None = None
    engine_version: EngineText | None = None
    usd_per_s: float | None = None
    start: dict[str, float] | None = None


class NodeTime(Model):
    """How long a node ran. `class_type` is None for a node that the graph does not have, as of an expanded subgraph."""

    node_id: EngineText
    class_type: EngineText | None
    seconds: float
    cached: bool = False


class AttemptTimes(Model):
    """Where the time of an attempt went, in seconds.

    `staged_s` is from its claim to its prompt, `executed_s` from there until the engine was free, `uploaded_s` from
    there until the last output was stored. `gpu_idle_s` is how long the engine had waited before the prompt, None if
    it got none. `nodes_left_out` nodes are not in `nodes`.
    """

    staged_s: float
    executed_s: float
    uploaded_s: float
    gpu_idle_s: float | None = None
    nodes: tuple[NodeTime, ...] = ()
    nodes_left_out: int = 0

    @property
    def held_s(self) -> float:
        """How long the attempt held its GPU."""
        return self.staged_s + self.executed_s


class GpuTime(Model):
    """How long workers with this GPU held a job. `usd` is None without a GPU or a known price."""

    gpu: str | None
    seconds: float
    usd: float | None = None


def with_time(usage: tuple[GpuTime, ...], runtime: Runtime | None, seconds: float) -> tuple[GpuTime, ...]:
    """Add the seconds of an attempt to `usage`, which has one entry per GPU, the last one used at the end.

    Time counts from a claim until the attempt needs its engine no longer, the loading of models included, since the GPU
    is in use. A container's start and its idle window are not charged to a job, nor are uploads, during which the GPU
    runs the next job.
    """
    gpu = None if runtime is None else runtime.gpu
    price = None if runtime is None or gpu is None else runtime.usd_per_s
    seconds = max(0.0, seconds)
    added = GpuTime(gpu=gpu, seconds=round(seconds, 3), usd=None if price is None else round(seconds * price, 8))
    before = next((one for one in usage if one.gpu == gpu), None)
    others = tuple(one for one in usage if one.gpu != gpu)
    return (*others, added if before is None else _sum(before, added))


def total_seconds(usage: tuple[GpuTime, ...]) -> float:
    return round(sum(one.seconds for one in usage), 3)


def total_usd(usage: tuple[GpuTime, ...]) -> float | None:
    """Return the total price; None if the price of a GPU is unknown. Time without a GPU is free."""
    # A partial sum would look like the total, so it is not returned.
    priced = [one.usd for one in usage if one.gpu is not None]
    known = [usd for usd in priced if usd is not None]
    return round(sum(known), 6) if known and len(known) == len(priced) else None


def _sum(one: GpuTime, other: GpuTime) -> GpuTime:
    usd = None if one.usd is None or other.usd is None else round(one.usd + other.usd, 8)
    return GpuTime(gpu=one.gpu, seconds=round(one.seconds + other.seconds, 3), usd=usd)

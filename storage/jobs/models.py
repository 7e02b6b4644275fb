"""The parts of a job's record: frozen values without behaviour."""

from datetime import datetime
from typing import Any, Literal

from storage.model import Model

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


class Medium(Model):
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
    node_id: str
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

    current_node: str | None = None
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
    node_id: str | None = None
    class_type: str | None = None
    exception_type: str | None = None
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
    gpu: str | None = None
    attention: str | None = None
    engine_version: str | None = None
    usd_per_s: float | None = None
    start: dict[str, float] | None = None


class GpuTime(Model):
    """How long workers with this GPU held a job. `usd` is None without a GPU or a known price."""

    gpu: str | None
    seconds: float
    usd: float | None = None

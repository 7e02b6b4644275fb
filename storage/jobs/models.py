"""What a job's record is made of: frozen values without behaviour."""

from datetime import datetime
from typing import Any, Literal

from storage.model import Model

EventName = Literal["queued", "started", "progress", "output", "completed", "failed"]
OutputType = Literal["image", "video", "audio", "text", "model", "file"]

BATCH_TYPE = "comfyui.batch.finished.v1"
TEST_TYPE = "comfyui.webhook.test.v1"


def job_event_type(name: EventName) -> str:
    """The CloudEvent's `type`."""
    return f"comfyui.job.{name}.v1"


class Input(Model):
    """One value to set in the submitted graph. A medium is already staged: `value` is then its file name."""

    node: str
    field: str
    value: Any


class Medium(Model):
    """A file that ComfyUI must find in its input folder under `name`; its bytes lie in the bucket under `key`."""

    name: str
    key: str
    size_bytes: int
    content_type: str


class Output(Model):
    """A file that a node produced, stored under `key`. `text` repeats the content of a short text.

    `filename` is unlike that of every other output of the attempt. `subfolder` is where the node put it below ComfyUI's
    folder. `is_preview`: in the folder for temporary files.
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
    """`step` is the current sampler's, as "12/49"."""

    current_node: str | None = None
    nodes_completed: int = 0
    nodes_total: int = 0
    step: str | None = None


class ErrorDetail(Model):
    """Why a job failed. `code` is stable; `message` is for people; node fields when a node is to blame.

    `retryable`: the same job may well succeed another time, for the fault was not its own. `log_tail`: the engine's
    last lines, where the worker was lost and nobody is left to say more.
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

    Events are numbered by `sequence`; `rev` is that of the version which an event was to be committed with. What the
    record will not tell any more later is kept here: how far the job was, and the keys of the outputs that are news
    (not their places: uploads end in any order).
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
    """Who runs the job, and until when this is believed without a sign of life. The last one was at `renewed_at`."""

    worker: str
    expires_at: datetime
    renewed_at: datetime | None = None


class Runtime(Model):
    """What an attempt runs on, as its worker knows it. `gpu` is None without one, or where it is not known.

    `usd_per_s` is the GPU's price when the attempt began: prices change, and what a job has cost does not. `start` is
    how long each phase of the worker's start took, seconds; None for a job that found its worker ready.
    """

    worker: str
    gpu: str | None = None
    attention: str | None = None
    engine_version: str | None = None
    usd_per_s: float | None = None
    start: dict[str, float] | None = None


class GpuTime(Model):
    """How long workers with this GPU held a job. `usd` is None where no price is known, or there is no GPU."""

    gpu: str | None
    seconds: float
    usd: float | None = None

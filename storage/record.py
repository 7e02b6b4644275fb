"""The job record and every change it can go through. Everything that affects the state machine lives here.

    create ─▶ queued ──claim──▶ running ──complete──▶ completed
                │  ▲               │ │
                │  └────release────┘ └──────fail─────▶ failed
                └───────────cancel───────────────────▶ failed

A change is a pure function from one record to the next; `storage.jobs` commits it by a conditional write.
Only the holder of the current attempt may change a running job (fencing), save for `request_cancel`,
which anyone may write and which the holder obeys.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.errors import AttemptFenced, TransitionRefused

CANCELLED_MESSAGE = "Cancelled by user"
"""The `error` of a cancelled job: the first version's wording, which clients compare with."""

WORKER_LOST = "worker_lost"
"""The code of a job that lost its worker in every attempt: no worker is left to say so itself."""

OutputType = Literal["image", "video", "audio", "text", "model", "file"]


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED)


class Change(StrEnum):
    """The names of the arrows above; `progress` and `request_cancel` stay in `running`."""

    CLAIM = "claim"
    PROGRESS = "progress"
    REQUEST_CANCEL = "request_cancel"
    RELEASE = "release"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


TRANSITIONS: Mapping[tuple[Status, Change], Status] = {
    (Status.QUEUED, Change.CLAIM): Status.RUNNING,
    (Status.QUEUED, Change.CANCEL): Status.FAILED,
    (Status.RUNNING, Change.PROGRESS): Status.RUNNING,
    (Status.RUNNING, Change.REQUEST_CANCEL): Status.RUNNING,
    (Status.RUNNING, Change.RELEASE): Status.QUEUED,
    (Status.RUNNING, Change.COMPLETE): Status.COMPLETED,
    (Status.RUNNING, Change.FAIL): Status.FAILED,
}


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(_Value):
    """One value to set in the submitted graph. A medium is already staged: `value` is then its file name."""

    node: str
    field: str
    value: Any


class Medium(_Value):
    """A file that ComfyUI must find in its input folder under `name`; its bytes lie in the bucket under `key`."""

    name: str
    key: str
    size_bytes: int
    content_type: str


class Output(_Value):
    """A file that a node produced, stored under `key`. `text` repeats the content of a short text."""

    filename: str
    type: OutputType
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


class ProgressDetails(_Value):
    """`step` is the current sampler's, as "12/49"."""

    current_node: str | None = None
    nodes_completed: int = 0
    nodes_total: int = 0
    step: str | None = None


class ErrorDetail(_Value):
    """Why a job failed. `code` is stable; `message` is for people; node fields when a node is to blame."""

    code: str
    message: str
    node_id: str | None = None
    class_type: str | None = None
    exception_type: str | None = None
    attempt: int | None = None
    node_errors: dict[str, Any] | None = None


class Lease(_Value):
    """Who runs the job, and until when this is believed without a sign of life."""

    worker: str
    expires_at: datetime


class JobRecord(_Value):
    """The content of job.json, the only truth about a job.

    `rev` grows by one a change and `nonce` is random a write: equal bodies would share an ETag,
    and a writer recognises its own write after an unclear answer. `storage.jobs` sets both.
    """

    tenant: str
    job_id: str
    rev: int = 0
    nonce: str = ""

    status: Status = Status.QUEUED
    pool: str = "default"
    priority: int = 0
    timeout_s: int
    metadata: dict[str, str] = Field(default_factory=dict)
    webhook_url: str | None = None
    webhook_events: tuple[str, ...] = ()
    inputs: tuple[Input, ...] = ()
    media: tuple[Medium, ...] = ()
    workflow_shape: str
    """Hash of the graph's classes and links: jobs of one shape take about the same time."""

    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    cancel_requested_at: datetime | None = None

    attempt: int = 0
    """How often the job was claimed; the number of the current attempt while running."""
    lease: Lease | None = None

    progress: int = 0
    progress_details: ProgressDetails = ProgressDetails()
    outputs: tuple[Output, ...] = ()
    error: str | None = None
    error_detail: ErrorDetail | None = None

    # The changes. Each raises TransitionRefused where the table has no such arrow.

    def claim(self, *, worker: str, now: datetime, lease_s: float) -> "JobRecord":
        return self._change(
            Change.CLAIM,
            attempt=self.attempt + 1,
            lease=Lease(worker=worker, expires_at=now + timedelta(seconds=lease_s)),
            started_at=now,
            progress=0,
            progress_details=ProgressDetails(),
            outputs=(),
        )

    def report(
        self,
        *,
        attempt: int,
        now: datetime,
        lease_s: float,
        progress: int,
        details: ProgressDetails,
        outputs: tuple[Output, ...],
    ) -> "JobRecord":
        """Progress of the current attempt; renews its lease."""
        lease = self._held_by(attempt)
        return self._change(
            Change.PROGRESS,
            lease=Lease(worker=lease.worker, expires_at=now + timedelta(seconds=lease_s)),
            progress=progress,
            progress_details=details,
            outputs=outputs,
        )

    def release(self, *, attempt: int) -> "JobRecord":
        """Give the job back to the queue: its worker is going away."""
        self._held_by(attempt)
        return self._change(Change.RELEASE, lease=None, progress=0, progress_details=ProgressDetails(), outputs=())

    def expire(self, *, now: datetime, max_attempts: int) -> "JobRecord":
        """What becomes of a running job whose lease has ended; the very same record while it has not.

        Back to the queue while attempts are left; else it fails, as does a job that was to be cancelled anyway, or
        whose time is up.
        """
        if self.status is not Status.RUNNING or self.lease is None or self.lease.expires_at > now:
            return self
        if self.cancel_requested_at is not None:
            return self._give_up(now, "cancelled", CANCELLED_MESSAGE)
        if self.started_at is not None and now - self.started_at >= timedelta(seconds=self.timeout_s):
            return self._give_up(now, "timeout", f"its worker was lost, and its timeout of {self.timeout_s} s is over")
        if self.attempt >= max_attempts:
            return self._give_up(now, WORKER_LOST, f"its worker was lost in each of {self.attempt} attempts")
        return self.release(attempt=self.attempt)

    def _give_up(self, now: datetime, code: str, message: str) -> "JobRecord":
        """Outputs that the lost worker had reported are in the bucket, and are kept."""
        error = ErrorDetail(code=code, message=message, attempt=self.attempt)
        return self.fail(attempt=self.attempt, now=now, error=error, outputs=self.outputs)

    def complete(
        self, *, attempt: int, now: datetime, outputs: tuple[Output, ...], nodes_total: int = 0
    ) -> "JobRecord":
        """`nodes_total` where the last report did not tell it: a quick job is over before its first one."""
        self._held_by(attempt)
        total = max(nodes_total, self.progress_details.nodes_total)
        done = ProgressDetails(nodes_completed=total, nodes_total=total)
        return self._change(
            Change.COMPLETE, lease=None, completed_at=now, progress=100, progress_details=done, outputs=outputs
        )

    def fail(
        self,
        *,
        attempt: int,
        now: datetime,
        error: ErrorDetail,
        outputs: tuple[Output, ...] = (),
        details: ProgressDetails | None = None,
    ) -> "JobRecord":
        """The current attempt failed for good; outputs that were finished before are kept, and how far it came."""
        self._held_by(attempt)
        return self._change(
            Change.FAIL,
            lease=None,
            completed_at=now,
            error=error.message,
            error_detail=error,
            outputs=outputs,
            progress_details=details or self.progress_details,
        )

    def cancel(self, *, now: datetime) -> "JobRecord":
        """What DELETE means now: a queued job fails at once, a running one is asked to stop, a finished one stays."""
        if self.status.is_terminal or self.cancel_requested_at is not None:
            return self
        if self.status is Status.RUNNING:
            return self._change(Change.REQUEST_CANCEL, cancel_requested_at=now)
        detail = ErrorDetail(code="cancelled", message=CANCELLED_MESSAGE)
        return self._change(
            Change.CANCEL, cancel_requested_at=now, completed_at=now, error=detail.message, error_detail=detail
        )

    def _held_by(self, attempt: int) -> Lease:
        if self.status is not Status.RUNNING or self.lease is None or self.attempt != attempt:
            raise AttemptFenced(f"attempt {attempt} of job {self.job_id} no longer holds it")
        return self.lease

    def _change(self, change: Change, **fields: Any) -> "JobRecord":
        try:
            status = TRANSITIONS[self.status, change]
        except KeyError:
            raise TransitionRefused(f"a {self.status} job cannot {change}") from None
        return self.model_copy(update={"status": status, **fields})

"""The job record and every change it can go through. Everything that affects the state machine lives here.

    create ─▶ queued ──claim──▶ running ──complete──▶ completed
                │  ▲              │  │
                │  └─release──────┘  └────fail──────▶ failed
                │    requeue                            ▲
                └──cancel, queue_timeout, no_engine─────┘

A change is a pure function from one record to the next; `storage.jobs.store` commits it by a conditional write.
Only the holder of the current attempt may change a running job (fencing), save for `request_cancel` and
`retain`, which anyone may write and which the holder obeys. Removing a finished job is no change of its record:
`storage.removal` puts a tombstone in its place.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import Field

from storage.errors import AttemptFenced, TransitionRefused
from storage.jobs.models import (
    ErrorDetail,
    EventName,
    GpuTime,
    Input,
    JobEvent,
    Lease,
    Medium,
    Output,
    ProgressDetails,
    Runtime,
)
from storage.jobs.usage import with_time
from storage.keys import DEFAULT_POOL
from storage.model import Model
from workflows.policy import GraphTrust

CANCELLED_MESSAGE = "Cancelled by user"
"""The `error` of a cancelled job: the first version's wording, which clients compare with."""

WORKER_LOST = "worker_lost"
"""The code of a job that lost its worker in every attempt: no worker is left to say so itself."""

QUEUE_TIMEOUT = "queue_timeout"
"""The code of a job that no worker took within its `queue_timeout_s`."""

NO_ENGINE = "engine_unavailable"
"""The code of a job for which no engine could be started; that of `workers.errors.EngineUnavailable`, too."""

DAY_S = 24 * 3600
DEFAULT_RETAIN_S = 7 * DAY_S
LONGEST_WAIT = timedelta(seconds=DEFAULT_RETAIN_S)
"""Of a job in the queue; longer only where jobs are kept longer than this."""


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED)


class Change(StrEnum):
    """The names of the arrows above; `progress` and `request_cancel` stay in `running`, `retain` in any status.

    A job goes back to the queue by `release` if its worker is going away in peace, which does not count against
    `max_attempts`, and by `requeue` if the worker was lost or the engine failed, which does.
    """

    CLAIM = "claim"
    PROGRESS = "progress"
    REQUEST_CANCEL = "request_cancel"
    RETAIN = "retain"
    RELEASE = "release"
    REQUEUE = "requeue"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    QUEUE_TIMEOUT = "queue_timeout"
    NO_ENGINE = "no_engine"


TRANSITIONS: Mapping[tuple[Status, Change], Status] = {
    (Status.QUEUED, Change.CLAIM): Status.RUNNING,
    (Status.QUEUED, Change.CANCEL): Status.FAILED,
    (Status.QUEUED, Change.QUEUE_TIMEOUT): Status.FAILED,
    (Status.QUEUED, Change.NO_ENGINE): Status.FAILED,
    (Status.RUNNING, Change.PROGRESS): Status.RUNNING,
    (Status.RUNNING, Change.REQUEST_CANCEL): Status.RUNNING,
    (Status.RUNNING, Change.RELEASE): Status.QUEUED,
    (Status.RUNNING, Change.REQUEUE): Status.QUEUED,
    (Status.RUNNING, Change.COMPLETE): Status.COMPLETED,
    (Status.RUNNING, Change.FAIL): Status.FAILED,
    **{(status, Change.RETAIN): status for status in Status},
}


class JobRecord(Model):
    """The content of job.json, the only truth about a job.

    `rev` grows by one a change and `nonce` is random a write: equal bodies would share an ETag,
    and a writer recognises its own write after an unclear answer. `storage.jobs.store` sets both, and `timer`.
    """

    tenant: str
    job_id: str
    rev: int = 0
    nonce: str = ""
    timer: str = ""
    """The key of the current timer (`storage.timers`)."""

    status: Status = Status.QUEUED
    pool: str = DEFAULT_POOL
    priority: int = 0
    timeout_s: int
    """Longest run time of one attempt."""
    queue_timeout_s: int | None = None
    """Longest time until the first attempt begins."""
    retain_s: int = DEFAULT_RETAIN_S
    """How long the job and its files stay after its end."""
    batch_id: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    webhook_url: str | None = None
    webhook_events: tuple[EventName, ...] = ()
    has_webhook_secret: bool = False
    """Whether the job brought a secret of its own, which lies beside the record."""
    has_partner_key: bool = False
    """Whether a key for partner nodes lies beside the record, sealed."""
    graphs: GraphTrust = "strangers"
    """The rules that the graph was accepted by; its worker applies them again. A record of a version before these
    levels has none, and was accepted by rules like the strict ones.
    """
    is_strict: bool = False
    """Whether the job is to be refused, and not run in part, if some of its outputs cannot run."""
    warnings: dict[str, Any] = Field(default_factory=dict)
    """By node id, why the outputs that depend on this node do not run: ComfyUI's `node_errors`, with our own words."""
    traceparent: str | None = None
    """The W3C trace context of the submission, handed on with each event."""
    events: tuple[JobEvent, ...] = ()
    """Those to be delivered, or delivered already. A progress event goes when a newer one comes."""
    next_sequence: int = 1
    inputs: tuple[Input, ...] = ()
    has_values: bool = False
    """Whether its inputs lie beside the record, for they are long: lists read whole records, workers write them again
    and again."""
    media: tuple[Medium, ...] = ()
    workflow_shape: str
    """Hash of the graph's classes and links: jobs of one shape take about the same time."""

    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    cancel_requested_at: datetime | None = None

    attempt: int = 0
    """How often the job was claimed; the number of the current attempt while running."""
    given_back: int = 0
    """How many of the attempts ended because their worker went away in peace: they count against no limit."""
    lease: Lease | None = None
    runtime: Runtime | None = None
    """What the last attempt runs on, or ran on."""
    usage: tuple[GpuTime, ...] = ()
    """How long the attempts that are over held their workers, by GPU; `spent` has the current one too."""

    progress: int = 0
    progress_details: ProgressDetails = ProgressDetails()
    outputs: tuple[Output, ...] = ()
    error: str | None = None
    error_detail: ErrorDetail | None = None
    last_fault: ErrorDetail | None = None
    """Why the attempt before had to be repeated."""

    @property
    def due_at(self) -> datetime:
        """When the reaper acts unless the job changes: limit in the queue, end of the lease, removal."""
        if self.completed_at is not None:
            return self.completed_at + timedelta(seconds=self.retain_s)
        if self.lease is not None:
            return self.lease.expires_at
        return self.queue_limit

    @property
    def queue_limit(self) -> datetime:
        """`queue_timeout_s` bounds the wait for the first attempt only; no job waits longer than `longest_wait`."""
        if self.queue_timeout_s is not None and self.attempt == 0:
            return self.created_at + min(timedelta(seconds=self.queue_timeout_s), self.longest_wait)
        return self.created_at + self.longest_wait

    @property
    def longest_wait(self) -> timedelta:
        """Of a job in the queue without a limit of its own."""
        return max(LONGEST_WAIT, timedelta(seconds=self.retain_s))

    @property
    def gpu_time(self) -> tuple[GpuTime, ...]:
        """GPU time so far, by GPU: of a running attempt up to its last sign of life, all that is known of it."""
        return self.usage if self.lease is None else self._used_until(self.lease.renewed_at)

    def may_be_repeated(self, max_attempts: int) -> bool:
        """Whether an attempt is left after the current one; those that were given back do not count."""
        return self.attempt - self.given_back < max_attempts

    def has_lost_its_worker(self, now: datetime) -> bool:
        """Whether its lease has ended without a sign of life."""
        return self.status is Status.RUNNING and self.lease is not None and self.lease.expires_at <= now

    def outdates(self, status: Status, attempt: int) -> bool:
        """Whether an index key of that status and attempt is stale.

        An index key is written before its commit, so one that is ahead of the record is not.
        """
        if self.status.is_terminal:
            return (status, attempt) != (self.status, self.attempt)
        return _stage(status, attempt) < _stage(self.status, self.attempt)

    def initial(self) -> "JobRecord":
        """The record of a new job, with the event that reports it."""
        return self.with_event("queued", self.created_at)

    # The changes. Each raises TransitionRefused where the table has no such arrow.

    def claim(self, *, worker: str, now: datetime, lease_s: float, runtime: Runtime | None = None) -> "JobRecord":
        return self._change(
            Change.CLAIM,
            attempt=self.attempt + 1,
            lease=Lease(worker=worker, expires_at=now + timedelta(seconds=lease_s), renewed_at=now),
            runtime=runtime,
            started_at=now,
            progress=0,
            progress_details=ProgressDetails(),
            outputs=(),
        ).with_event("started", now)

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
        reported = self._change(
            Change.PROGRESS,
            lease=Lease(worker=lease.worker, expires_at=now + timedelta(seconds=lease_s), renewed_at=now),
            progress=progress,
            progress_details=details,
            outputs=outputs,
        )
        if news := tuple(output.key for output in outputs if output not in self.outputs):
            reported = reported.with_event("output", now, outputs=news)
        if (progress, details) != (self.progress, self.progress_details):
            reported = reported.with_event("progress", now, progress=progress, progress_details=details)
        return reported

    def release(self, *, attempt: int, now: datetime) -> "JobRecord":
        """Give the job back to the queue: its worker is going away. A job to be cancelled ends here instead."""
        self._held_by(attempt)
        if self.cancel_requested_at is not None:
            return self._give_up(now, "cancelled", CANCELLED_MESSAGE)
        usage = self._used_until(now)
        return self._change(Change.RELEASE, given_back=self.given_back + 1, usage=usage, **_FRESH).with_event(
            "queued", now
        )

    def requeue(self, *, attempt: int, now: datetime, fault: ErrorDetail) -> "JobRecord":
        """Back to the queue for a fault that was not the job's own. A job to be cancelled ends here instead."""
        self._held_by(attempt)
        if self.cancel_requested_at is not None:
            return self._give_up(now, "cancelled", CANCELLED_MESSAGE)
        usage = self._used_until(now)
        return self._change(Change.REQUEUE, last_fault=fault, usage=usage, **_FRESH).with_event("queued", now)

    def expire(self, *, now: datetime, max_attempts: int, log_tail: tuple[str, ...] | None = None) -> "JobRecord":
        """What becomes of a running job whose lease has ended; the very same record while it has not.

        Back to the queue while attempts are left; else it fails, as does a job that was to be cancelled anyway, or
        whose time is up. Of the lost worker's time, that up to its last sign of life counts.
        """
        if not self.has_lost_its_worker(now):
            return self
        return self._without_worker(now, max_attempts, log_tail).model_copy(update={"usage": self.gpu_time})

    def _without_worker(self, now: datetime, max_attempts: int, log_tail: tuple[str, ...] | None) -> "JobRecord":
        if self.cancel_requested_at is not None:
            return self._give_up(now, "cancelled", CANCELLED_MESSAGE)
        if self.started_at is not None and now - self.started_at >= timedelta(seconds=self.timeout_s):
            return self._give_up(now, "timeout", f"its worker was lost, and its timeout of {self.timeout_s} s is over")
        lost = ErrorDetail(
            code=WORKER_LOST,
            message=f"its worker was lost in attempt {self.attempt}",
            attempt=self.attempt,
            retryable=True,
            log_tail=log_tail,
        )
        if self.may_be_repeated(max_attempts):
            return self.requeue(attempt=self.attempt, now=now, fault=lost)
        return self.fail(attempt=self.attempt, now=now, error=lost, outputs=self.outputs)

    def _give_up(self, now: datetime, code: str, message: str) -> "JobRecord":
        """Outputs that the worker had reported are in the bucket, and are kept."""
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
            Change.COMPLETE,
            lease=None,
            completed_at=now,
            usage=self._used_until(now),
            progress=100,
            progress_details=done,
            outputs=outputs,
        ).with_event("completed", now)

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
            usage=self._used_until(now),
            error=error.message,
            error_detail=error,
            outputs=outputs,
            progress_details=details or self.progress_details,
        ).with_event("failed", now)

    def cancel(self, *, now: datetime) -> "JobRecord":
        """What DELETE means now: a queued job fails at once, a running one is asked to stop, a finished one stays."""
        if self.status.is_terminal or self.cancel_requested_at is not None:
            return self
        if self.status is Status.RUNNING:
            return self._change(Change.REQUEST_CANCEL, cancel_requested_at=now)
        detail = ErrorDetail(code="cancelled", message=CANCELLED_MESSAGE)
        return self._change(
            Change.CANCEL, cancel_requested_at=now, completed_at=now, error=detail.message, error_detail=detail
        ).with_event("failed", now)

    def expire_in_queue(self, *, now: datetime) -> "JobRecord":
        """The job after its limit in the queue; the very same record before that."""
        if self.status is not Status.QUEUED or self.queue_limit > now:
            return self
        is_own = self.queue_limit < self.created_at + self.longest_wait
        return self._nobody_took_it(f"{self.queue_timeout_s} s" if is_own else f"{self.longest_wait.days} days", now)

    def _nobody_took_it(self, waited: str, now: datetime) -> "JobRecord":
        detail = ErrorDetail(code=QUEUE_TIMEOUT, message=f"no worker was free within {waited}", retryable=True)
        return self._change(
            Change.QUEUE_TIMEOUT, completed_at=now, error=detail.message, error_detail=detail
        ).with_event("failed", now)

    def without_engine(
        self, *, now: datetime, failed_at: datetime, message: str, log_tail: tuple[str, ...]
    ) -> "JobRecord":
        """What becomes of a job that waited when its pool's engine failed to start once too often, at `failed_at`."""
        if self.status is not Status.QUEUED or self.created_at > failed_at:
            return self
        detail = ErrorDetail(code=NO_ENGINE, message=message, retryable=True, log_tail=log_tail or None)
        return self._change(Change.NO_ENGINE, completed_at=now, error=message, error_detail=detail).with_event(
            "failed", now
        )

    def with_warnings(self, warnings: dict[str, Any]) -> "JobRecord":
        """What the engine said of the outputs that it does not run, in the place of what was known at submission."""
        return self.model_copy(update={"warnings": warnings})

    def retain(self, retain_s: int) -> "JobRecord":
        """Keep the job only so long after its end; 0 means not at all."""
        return self if self.retain_s == retain_s else self._change(Change.RETAIN, retain_s=retain_s)

    def with_event(self, name: EventName, now: datetime, **what: Any) -> "JobRecord":
        """With the event, if anyone wants it. Only the newest progress counts, and none after the end."""
        if self.webhook_url is None or name not in self.webhook_events:
            return self.model_copy(update={"events": self._without_progress()}) if self.status.is_terminal else self
        event = JobEvent(
            sequence=self.next_sequence, rev=self.rev + 1, name=name, time=now, attempt=self.attempt, **what
        )
        supersedes = name == "progress" or self.status.is_terminal
        kept = self._without_progress() if supersedes else self.events
        return self.model_copy(update={"events": (*kept, event), "next_sequence": self.next_sequence + 1})

    def _without_progress(self) -> tuple[JobEvent, ...]:
        return tuple(event for event in self.events if event.name != "progress")

    def _used_until(self, moment: datetime | None) -> tuple[GpuTime, ...]:
        """With the time that the current attempt had held its worker by then; as it is where that is not known."""
        if moment is None or self.started_at is None:
            return self.usage
        return with_time(self.usage, self.runtime, (moment - self.started_at).total_seconds())

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


_FRESH: Mapping[str, Any] = {"lease": None, "progress": 0, "progress_details": ProgressDetails(), "outputs": ()}
"""What a job loses that goes back to the queue."""


def _stage(status: Status, attempt: int) -> int:
    """Grows with a job's life: queued 0, running 1, queued 1, running 2, …; an end comes after what it ends."""
    return 3 * attempt + {Status.RUNNING: -1, Status.QUEUED: 0}.get(status, 1)

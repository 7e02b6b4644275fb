"""The job record and its transitions. Everything that affects the state machine lives here.

    create ─▶ queued ──claim──▶ running ──complete──▶ completed
                │  ▲              │  │
                │  └─release──────┘  └────fail──────▶ failed
                │    requeue                            ▲
                └──cancel, queue_timeout, no_engine─────┘      (queue_timeout: also of the whole deadline)

A change is a pure function from one record to the next; `storage.jobs.store` commits it by a conditional write.
Only the holder of the current attempt may change a running job (fencing). The exceptions are `request_cancel`,
`watch` and `retain`, which any process may write and which the holder obeys. The removal of a finished job is not a
change of its record: `storage.removal` replaces the record by a tombstone.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from storage.bucket.records import Model
from storage.errors import AttemptFenced, TransitionRefused
from storage.jobs.models import (
    AttemptTimes,
    ErrorDetail,
    EventName,
    GpuTime,
    Input,
    InputFile,
    JobEvent,
    Lease,
    Output,
    ProgressDetails,
    Runtime,
    with_time,
)
from storage.keys import DEFAULT_POOL
from workflows.policy import GraphTrust

WorkflowFormat = Literal["api", "editor"]

CANCELLED = "cancelled"
"""The error code of a cancelled job. Its status is `failed`, as in the first version."""

CANCELLED_MESSAGE = "Cancelled by user"
"""The `error` of a cancelled job. Clients compare it with the first version's wording."""

WORKER_LOST = "worker_lost"
"""The error code of a job that lost its worker in every attempt. The reaper writes it."""

QUEUE_TIMEOUT = "queue_timeout"
"""The error code of a job that no worker claimed within its `queue_timeout_s`."""

DEADLINE_EXCEEDED = "deadline_exceeded"
"""The error code of a job that had not ended within its `deadline_s`."""

NO_ENGINE = "engine_unavailable"
"""The error code of a job whose pool could not start an engine; the same as `workers.errors.EngineUnavailable`'s."""

MOST_RETRIES_SHOWN = 20
"""The newest retries that a record names: it must stay small however often a job is retried."""

DAY_S = 24 * 3600
DEFAULT_RETAIN_S = 7 * DAY_S
LONGEST_WAIT = timedelta(seconds=DEFAULT_RETAIN_S)
"""The longest time in the queue, unless the job's `retain_s` is longer."""


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED)


class Change(StrEnum):
    """The transitions of the diagram above.

    `progress`, `request_cancel` and `watch` stay in `running`, `retain` stays in any status, and `retry`, by which
    another job repeats this one, in that of a job that has ended.

    A job returns to the queue by `release` if its worker shuts down, which does not count against `max_attempts`, and
    by `requeue` if the worker was lost or the engine failed, which does.
    """

    CLAIM = "claim"
    PROGRESS = "progress"
    REQUEST_CANCEL = "request_cancel"
    WATCH = "watch"
    RETAIN = "retain"
    RETRY = "retry"
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
    (Status.RUNNING, Change.WATCH): Status.RUNNING,
    (Status.RUNNING, Change.RELEASE): Status.QUEUED,
    (Status.RUNNING, Change.REQUEUE): Status.QUEUED,
    (Status.RUNNING, Change.COMPLETE): Status.COMPLETED,
    (Status.RUNNING, Change.FAIL): Status.FAILED,
    **{(status, Change.RETAIN): status for status in Status},
    **{(status, Change.RETRY): status for status in Status if status.is_terminal},
}


class JobRecord(Model):
    """The content of job.json, the only source of truth about a job.

    `storage.jobs.store` sets `rev`, `nonce` and `timer`.
    """

    tenant: str
    job_id: str
    rev: int = 0
    """Increases by one with each change."""
    # Without the nonce, equal bodies would share an ETag. A writer also finds its own write by it after a lost answer.
    nonce: str = ""
    """A random value per write."""
    timer: str = ""
    """The key of the current timer (`storage.timers`)."""

    status: Status = Status.QUEUED
    pool: str = DEFAULT_POOL
    priority: int = 0
    timeout_s: int
    """Longest run time of one attempt, in seconds."""
    queue_timeout_s: int | None = None
    """Longest time until the first attempt begins, in seconds."""
    deadline_s: int | None = None
    """Longest time from the creation of the job to its end, in seconds."""
    retain_s: int = DEFAULT_RETAIN_S
    """How long the job and its files are kept after its end, in seconds."""
    batch_id: str | None = None
    is_batch_reported: bool = False
    """Whether the job's batch has a receiver, which awaits the end of its last job."""
    metadata: dict[str, str] = Field(default_factory=dict)
    webhook_url: str | None = None
    webhook_events: tuple[EventName, ...] = ()
    has_webhook_secret: bool = False
    """Whether the job has its own webhook secret, stored in a separate object."""
    has_partner_key: bool = False
    """Whether an encrypted key for partner nodes is stored in a separate object."""
    # The default serves records of versions before these levels, which were accepted by rules like the strict ones.
    graphs: GraphTrust = "strangers"
    """The rules by which the graph was accepted; the worker applies them again."""
    is_strict: bool = False
    """Whether the job is refused, and not run in part, if some of its outputs cannot run."""
    warnings: dict[str, Any] = Field(default_factory=dict)
    """By node id, why the outputs that depend on the node do not run: ComfyUI's `node_errors` with our own messages."""
    traceparent: str | None = None
    """The W3C trace context of the submission, passed on with each event."""
    events: tuple[JobEvent, ...] = ()
    """The job's webhook events, delivered or not. A newer progress event replaces an older one."""
    next_sequence: int = 1
    inputs: tuple[Input, ...] = ()
    # Lists read whole records and workers rewrite them with every report, so records stay small.
    has_values: bool = False
    """Whether the inputs are long and stored in a separate object."""
    input_files: tuple[InputFile, ...] = ()
    retry_of: str | None = None
    """The job that this one repeats."""
    retried_as: tuple[str, ...] = ()
    """The newest jobs that repeat this one, oldest first."""
    workflow_name: str | None = None
    """The named workflow that was run; None for a graph of the client's own."""
    workflow_format: WorkflowFormat = "api"
    """How the workflow was submitted. Of an editor's file, the job keeps the file beside the graph made of it."""
    workflow_shape: str
    """Hash of the graph's classes and links. Jobs of one shape have similar run times."""

    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    watched_until: datetime | None = None
    """Until when the worker publishes previews: a client follows the job."""

    attempt: int = 0
    """How often the job was claimed, which is the number of the current attempt."""
    given_back: int = 0
    """How many attempts ended because their worker shut down; these do not count against `max_attempts`."""
    lease: Lease | None = None
    runtime: Runtime | None = None
    """The machine and engine of the last attempt."""
    times: AttemptTimes | None = None
    """Where the time of the last attempt went; None while it runs, or if its worker was lost."""
    usage: tuple[GpuTime, ...] = ()
    """GPU time of the attempts that have ended, by GPU; `gpu_time` includes the current one."""

    progress: int = 0
    progress_details: ProgressDetails = ProgressDetails()
    outputs: tuple[Output, ...] = ()
    error: str | None = None
    error_detail: ErrorDetail | None = None
    last_fault: ErrorDetail | None = None
    """Why the previous attempt had to be repeated."""

    @property
    def error_code(self) -> str | None:
        """Why the job failed: a stable word, `CANCELLED` for one that was cancelled."""
        return None if self.error_detail is None else self.error_detail.code

    @property
    def due_at(self) -> datetime:
        """When the reaper acts unless the job changes: the queue limit, the end of the lease, or the removal."""
        if self.completed_at is not None:
            return self.completed_at + timedelta(seconds=self.retain_s)
        if self.lease is not None:
            return self.lease.expires_at
        return self.queue_limit

    @property
    def queue_limit(self) -> datetime:
        """When a queued job fails. `queue_timeout_s` limits the first wait only, the others every wait."""
        limits = [self.created_at + self.longest_wait]
        if self.queue_timeout_s is not None and self.attempt == 0:
            limits.append(self.created_at + timedelta(seconds=self.queue_timeout_s))
        if self.deadline is not None:
            limits.append(self.deadline)
        return min(limits)

    @property
    def deadline(self) -> datetime | None:
        """When the job fails if it has not ended, whether it waits or runs."""
        return None if self.deadline_s is None else self.created_at + timedelta(seconds=self.deadline_s)

    @property
    def longest_wait(self) -> timedelta:
        """The queue limit of a job without its own `queue_timeout_s`."""
        return max(LONGEST_WAIT, timedelta(seconds=self.retain_s))

    @property
    def longest_life(self) -> datetime:
        """When a job that waits as long as it may is removed."""
        return self.created_at + self.longest_wait + timedelta(seconds=self.retain_s)

    @property
    def gpu_time(self) -> tuple[GpuTime, ...]:
        """GPU time so far, by GPU. A running attempt counts up to the last renewal of its lease."""
        return self.usage if self.lease is None else self._used_until(self.lease.renewed_at)

    @property
    def deadline_message(self) -> str:
        return f"it had not ended within its deadline_s of {self.deadline_s} s"

    def may_be_repeated(self, max_attempts: int) -> bool:
        """Whether another attempt is allowed. Released attempts do not count."""
        return self.attempt - self.given_back < max_attempts

    def has_lost_its_worker(self, now: datetime) -> bool:
        """Whether the lease of a running job has expired."""
        return self.status is Status.RUNNING and self.lease is not None and self.lease.expires_at <= now

    def outdates(self, status: Status, attempt: int) -> bool:
        """Whether an index key of that status and attempt is stale."""
        # An index key is written before its commit, so one that is ahead of the record is not stale.
        if self.status.is_terminal:
            return (status, attempt) != (self.status, self.attempt)
        return _stage(status, attempt) < _stage(self.status, self.attempt)

    def initial(self) -> "JobRecord":
        """Return the record of a new job with its `queued` event."""
        return self.with_event("queued", self.created_at)

    # Each change below raises TransitionRefused if the table has no such transition.

    def claim(self, *, worker: str, now: datetime, lease_s: float, runtime: Runtime | None = None) -> "JobRecord":
        return self._change(
            Change.CLAIM,
            attempt=self.attempt + 1,
            lease=Lease(worker=worker, expires_at=now + timedelta(seconds=lease_s), renewed_at=now),
            runtime=runtime,
            started_at=now,
            times=None,
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
        """Record progress of the current attempt and renew its lease."""
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
        """Return the job to the queue because its worker shuts down. A job with a cancel request fails instead."""
        return self._give_back(Change.RELEASE, attempt, now, given_back=self.given_back + 1)

    def requeue(
        self, *, attempt: int, now: datetime, fault: ErrorDetail, times: AttemptTimes | None = None
    ) -> "JobRecord":
        """Return the job to the queue after an infrastructure fault. A job with a cancel request fails instead.

        Here and below `times` are those of the attempt, None if it is not known where its time went.
        """
        return self._give_back(Change.REQUEUE, attempt, now, times, last_fault=fault)

    def _give_back(
        self, change: Change, attempt: int, now: datetime, times: AttemptTimes | None = None, **fields: Any
    ) -> "JobRecord":
        self._held_by(attempt)
        if self.cancel_requested_at is not None:
            return self._give_up(now, CANCELLED, CANCELLED_MESSAGE)
        if self.deadline is not None and self.deadline <= now:
            return self._give_up(now, DEADLINE_EXCEEDED, self.deadline_message)
        usage = self._used_until(self._freed_at(times, now))
        return self._change(change, usage=usage, **_FRESH, **fields).with_event("queued", now)

    def expire(self, *, now: datetime, max_attempts: int, log_tail: tuple[str, ...] | None = None) -> "JobRecord":
        """Return a running job whose lease has expired to the queue, or fail it.

        It fails if no attempt is left, its cancellation was requested or its timeout is over. A job with a valid lease
        is returned unchanged.
        """
        if not self.has_lost_its_worker(now):
            return self
        # Only the time up to the last renewal is known to have been used, so the time until `now` is not counted.
        return self._without_worker(now, max_attempts, log_tail).model_copy(update={"usage": self.gpu_time})

    def _without_worker(self, now: datetime, max_attempts: int, log_tail: tuple[str, ...] | None) -> "JobRecord":
        if self.cancel_requested_at is not None:
            return self._give_up(now, CANCELLED, CANCELLED_MESSAGE)
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
        """Fail the job and keep the outputs that its worker has reported: they are in the bucket."""
        error = ErrorDetail(code=code, message=message, attempt=self.attempt)
        return self.fail(attempt=self.attempt, now=now, error=error, outputs=self.outputs)

    def complete(
        self,
        *,
        attempt: int,
        now: datetime,
        outputs: tuple[Output, ...],
        nodes_total: int = 0,
        times: AttemptTimes | None = None,
    ) -> "JobRecord":
        """Complete the current attempt. `nodes_total` is the number of nodes that ran; 0 keeps that of the reports."""
        self._held_by(attempt)
        # A report from before ComfyUI's first message counts outputs that ComfyUI then did not run.
        total = nodes_total or self.progress_details.nodes_total
        done = ProgressDetails(nodes_completed=total, nodes_total=total)
        return self._change(
            Change.COMPLETE,
            lease=None,
            completed_at=now,
            times=times,
            usage=self._used_until(self._freed_at(times, now)),
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
        times: AttemptTimes | None = None,
    ) -> "JobRecord":
        """Fail the job in its current attempt; keep the outputs stored so far and the last progress details."""
        self._held_by(attempt)
        return self._change(
            Change.FAIL,
            lease=None,
            completed_at=now,
            times=times,
            usage=self._used_until(self._freed_at(times, now)),
            error=error.message,
            error_detail=error,
            outputs=outputs,
            progress_details=details or self.progress_details,
        ).with_event("failed", now)

    def cancel(self, *, now: datetime) -> "JobRecord":
        """Cancel a job: a queued one fails at once, a running one gets a cancel request, a finished one stays."""
        if self.status.is_terminal or self.cancel_requested_at is not None:
            return self
        if self.status is Status.RUNNING:
            # Only the holder of the attempt may end a running job.
            return self._change(Change.REQUEST_CANCEL, cancel_requested_at=now)
        cancelled = ErrorDetail(code=CANCELLED, message=CANCELLED_MESSAGE)
        return self._fail_in_queue(Change.CANCEL, now, cancelled, cancel_requested_at=now)

    def expire_in_queue(self, *, now: datetime) -> "JobRecord":
        """Fail a job whose queue limit is over; return it unchanged before that."""
        if self.status is not Status.QUEUED or self.queue_limit > now:
            return self
        if self.deadline is not None and self.deadline <= now:
            late = ErrorDetail(code=DEADLINE_EXCEEDED, message=self.deadline_message)
            return self._fail_in_queue(Change.QUEUE_TIMEOUT, now, late)
        is_own = self.queue_limit < self.created_at + self.longest_wait
        waited = f"{self.queue_timeout_s} s" if is_own else f"{self.longest_wait.days} days"
        late = ErrorDetail(code=QUEUE_TIMEOUT, message=f"no worker was free within {waited}", retryable=True)
        return self._fail_in_queue(Change.QUEUE_TIMEOUT, now, late)

    def without_engine(
        self, *, now: datetime, failed_at: datetime, message: str, log_tail: tuple[str, ...]
    ) -> "JobRecord":
        """Fail a job that was queued when its pool used up its engine starts, at `failed_at`; others are unchanged."""
        if self.status is not Status.QUEUED or self.created_at > failed_at:
            return self
        failed = ErrorDetail(code=NO_ENGINE, message=message, retryable=True, log_tail=log_tail or None)
        return self._fail_in_queue(Change.NO_ENGINE, now, failed)

    def _fail_in_queue(self, change: Change, now: datetime, error: ErrorDetail, **fields: Any) -> "JobRecord":
        ended = self._change(change, completed_at=now, error=error.message, error_detail=error, **fields)
        return ended.with_event("failed", now)

    def watch(self, until: datetime) -> "JobRecord":
        """Ask the worker of a running job for previews; others are unchanged."""
        # In the record, which the worker reads anyway: an object of its own would cost every job a GET at each look.
        if self.status is not Status.RUNNING or (self.watched_until is not None and self.watched_until >= until):
            return self
        return self._change(Change.WATCH, watched_until=until)

    def is_watched(self, now: datetime) -> bool:
        return self.watched_until is not None and self.watched_until > now

    def with_warnings(self, warnings: dict[str, Any]) -> "JobRecord":
        """Replace the warnings of the submission by the engine's."""
        return self.model_copy(update={"warnings": warnings})

    def retain(self, retain_s: int) -> "JobRecord":
        """Set how many seconds the job is kept after its end; 0 removes it at once."""
        return self if self.retain_s == retain_s else self._change(Change.RETAIN, retain_s=retain_s)

    def retried(self, job_id: str) -> "JobRecord":
        """Name another job that repeats this one, which has ended."""
        if job_id in self.retried_as:
            return self
        return self._change(Change.RETRY, retried_as=(*self.retried_as, job_id)[-MOST_RETRIES_SHOWN:])

    def with_event(self, name: EventName, now: datetime, **what: Any) -> "JobRecord":
        """Return the record with the event if its webhook subscribes to it.

        A newer progress event, or the job's end, supersedes earlier progress events.
        """
        if self.webhook_url is None or name not in self.webhook_events:
            return self.model_copy(update={"events": self._without_progress()}) if self.status.is_terminal else self
        # A commit that is tried again has another `rev`, so that the event's outbox entry gets another key.
        event = JobEvent(
            sequence=self.next_sequence, rev=self.rev + 1, name=name, time=now, attempt=self.attempt, **what
        )
        supersedes = name == "progress" or self.status.is_terminal
        kept = self._without_progress() if supersedes else self.events
        return self.model_copy(update={"events": (*kept, event), "next_sequence": self.next_sequence + 1})

    def _without_progress(self) -> tuple[JobEvent, ...]:
        return tuple(event for event in self.events if event.name != "progress")

    def _freed_at(self, times: AttemptTimes | None, now: datetime) -> datetime:
        """Return when the attempt needed its GPU no longer."""
        if times is None or self.started_at is None:
            return now
        return min(now, self.started_at + timedelta(seconds=times.held_s))

    def _used_until(self, moment: datetime | None) -> tuple[GpuTime, ...]:
        """Return the usage including the current attempt up to `moment`; unchanged if the times are unknown."""
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
"""The fields that are reset when a job returns to the queue."""


def _stage(status: Status, attempt: int) -> int:
    """Order the states of a job's life: queued 0, running 1, queued 1, running 2, …; an end follows its attempt."""
    return 3 * attempt + {Status.RUNNING: -1, Status.QUEUED: 0}.get(status, 1)

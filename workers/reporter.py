"""Reports the progress of a running job, renews its lease and receives its cancel request.

One loop per attempt keeps at most one conditional write of a job in flight. It writes progress at most once per
interval, and only changes. A cancel request is found by a lost race for a write, a signal, or the slow poll.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from storage.clock import Clock
from storage.errors import AttemptFenced, JobNotFound, StorageError
from storage.jobs.models import Output, ProgressDetails
from storage.jobs.record import CANCELLED_MESSAGE, JobRecord, Status
from storage.jobs.store import JobStore, StoredJob
from storage.signal import Bell, Signal, job_topic
from workers.errors import JobCancelled, OutputFailed, WorkerError
from workflows.progress import ProgressModel

_TOO_LARGE = (
    "the job's record, which lists its outputs, warnings and events, would have {size} bytes, at most {most} are "
    "allowed: let the workflow make fewer outputs, or shorter names and texts"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReportPolicy:
    """Times in seconds."""

    interval_s: float = 1.0
    cancel_poll_s: float = 2.0
    lease_s: float = 60.0
    max_record_bytes: int = 1024**2
    """Maximum of what an attempt writes: every GET, list and event reads whole records. Other writers add little, and
    must always be able to end a job."""

    def checked(self, record: JobRecord) -> JobRecord:
        """Return the record. Raises `OutputFailed` if it is too large."""
        size = len(record.model_dump_json().encode())
        if size > self.max_record_bytes:
            raise OutputFailed(_TOO_LARGE.format(size=size, most=self.max_record_bytes))
        return record

    @property
    def heartbeat_s(self) -> float:
        """The longest time between two renewals: two may fail before the lease ends."""
        return self.lease_s / 3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The progress and outputs that the next write reports."""

    progress: int
    details: ProgressDetails
    outputs: tuple[Output, ...]

    @classmethod
    def of(cls, model: ProgressModel, outputs: tuple[Output, ...]) -> "Snapshot":
        details = ProgressDetails(
            current_node=model.current_node,
            nodes_completed=model.nodes_completed,
            nodes_total=model.nodes_total,
            step=model.step,
        )
        return cls(min(model.percent, 99), details, outputs)  # only the commit of the end reports 100


class Reporter:
    """`observe` returns the current progress, None while there is none.

    `on_stop` is called from the loop if the job was cancelled or its record would be too large, `on_fenced` if another
    attempt holds the job, which `is_fenced` then says. `stored` is the newest known record of this attempt.
    """

    def __init__(
        self,
        jobs: JobStore,
        stored: StoredJob,
        clock: Clock,
        policy: ReportPolicy,
        *,
        observe: Callable[[], Snapshot | None],
        on_stop: Callable[[WorkerError], None],
        on_fenced: Callable[[], object],
    ) -> None:
        self.stored = stored
        self.is_fenced = False
        self._jobs = jobs
        self._clock = clock
        self._policy = policy
        self._observe = observe
        self._on_stop = on_stop
        self._on_fenced = on_fenced
        self._attempt = stored.record.attempt
        self._written: Snapshot | None = None
        self._stopping = False
        self._bell = Bell()  # replaced by the topic's bell in `run`; `stop` may be called before
        self._heard_cancel = False
        self._wrote_at = self._read_at = asyncio.get_running_loop().time()

    async def run(self, signal: Signal) -> None:
        """Report until `stop` is called. A failed bucket request is repeated at the next turn.

        Raises `AttemptFenced` if another attempt holds the job.
        """
        record = self.stored.record
        with signal.listen(job_topic(record.tenant, record.job_id)) as self._bell:
            while not self._stopping:
                try:
                    await self._certain_turn(self._bell)
                except (AttemptFenced, JobNotFound) as error:
                    self.is_fenced = True
                    self._on_fenced()
                    raise AttemptFenced(f"attempt {self._attempt} of job {record.job_id} was taken over") from error
                except OutputFailed as error:
                    self._observe = lambda: None  # the lease is still renewed, until the attempt has ended
                    self._on_stop(error)
                except StorageError as error:
                    logger.warning("progress of job %s could not be written: %s", record.job_id, error)
                except Exception:  # a defect of the progress must not cost the lease, which the next turns renew
                    logger.exception("progress of job %s is no longer reported", record.job_id)
                    self._observe = lambda: None

    def stop(self) -> None:
        """Stop the loop, at once if it waits. A write in flight ends first, so that its result is known."""
        self._stopping = True
        self._bell.ring()

    async def _certain_turn(self, bell: Bell) -> None:
        """Take a turn. Raises `StorageUnavailable` in place of a `JobNotFound` that is not certain."""
        try:
            await self._turn(bell)
        except JobNotFound as missing:
            record = self.stored.record
            await self._jobs.confirm_missing(record.tenant, record.job_id, missing)  # the attempt ends without it
            raise

    async def _turn(self, bell: Bell) -> None:
        rung = await bell.wait(self._policy.interval_s)
        if self._stopping:  # the commit of the end follows and must not race with a report
            return
        now = asyncio.get_running_loop().time()
        since_write = now - self._wrote_at
        snapshot = self._observe()
        changed = snapshot is not None and snapshot != self._written
        if (changed and since_write >= self._policy.interval_s) or since_write >= self._policy.heartbeat_s:
            # The times are set first, so that a failed write is repeated after an interval and not at once. A write
            # reads the record's cancel request as well.
            self._wrote_at = self._read_at = now
            await self._write(snapshot)
            await bell.wait(0)  # clears the ring that this write caused
        elif rung or now - self._read_at >= self._policy.cancel_poll_s:
            self._read_at = now
            record = self.stored.record
            self._notice(await self._jobs.read(record.tenant, record.job_id))

    async def _write(self, snapshot: Snapshot | None) -> None:
        self._notice(await self._jobs.evolve_from(self.stored, lambda record: self._reported(record, snapshot)))
        self._written = snapshot

    def _reported(self, record: JobRecord, snapshot: Snapshot | None) -> JobRecord:
        reported = record.report(
            attempt=self._attempt,
            now=self._clock.now(),
            lease_s=self._policy.lease_s,
            progress=snapshot.progress if snapshot else record.progress,
            details=snapshot.details if snapshot else record.progress_details,
            outputs=snapshot.outputs if snapshot else record.outputs,
        )
        return reported if snapshot is None else self._policy.checked(reported)

    def _notice(self, stored: StoredJob) -> None:
        record = stored.record
        if record.status is not Status.RUNNING or record.attempt != self._attempt:
            raise AttemptFenced(f"attempt {self._attempt} of job {record.job_id} no longer holds it")
        self.stored = stored
        if record.cancel_requested_at is not None and not self._heard_cancel:
            self._heard_cancel = True
            self._on_stop(JobCancelled(CANCELLED_MESSAGE))

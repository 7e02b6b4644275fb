"""`JobRunner`: a claimed job to its terminal record. Whatever happens, the record says how it ended.

What the record cannot say, because the attempt was fenced or the worker is going away, is not written.
"""

import asyncio
import logging
from dataclasses import dataclass, field

from storage.clock import Clock
from storage.errors import AttemptFenced, StorageError
from storage.jobs import Change, JobStore, StoredJob
from storage.objects import ObjectStore
from storage.record import CANCELLED_MESSAGE, ErrorDetail, JobRecord, Output, ProgressDetails
from storage.runtimes import RuntimeStore
from storage.signal import Signal
from workers.attempt import Attempt, Workbench
from workers.comfy.engine import ComfyEngine
from workers.comfy.execution import ExecutionPolicy
from workers.errors import JobCancelled, JobTimedOut, OutputFailed, StagingFailed, WorkerError
from workers.patience import patiently
from workers.reporter import Reporter, ReportPolicy, Snapshot
from workers.strict import strict_json, strict_text
from workers.uploads import AttemptKeys, OutputUploads
from workflows.catalogue import Catalogue

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunnerPolicy:
    parallel_uploads: int = 4
    inline_text_bytes: int = 16 * 1024
    report: ReportPolicy = field(default_factory=ReportPolicy)
    execution: ExecutionPolicy = field(default_factory=ExecutionPolicy)


@dataclass(frozen=True, slots=True)
class RunnerStores:
    jobs: JobStore
    objects: ObjectStore
    runtimes: RuntimeStore
    signal: Signal
    clock: Clock


@dataclass(frozen=True, slots=True)
class RunResult:
    """`engine_suspect`: the engine must be restarted before the next job."""

    stored: StoredJob
    engine_suspect: bool = False


class JobRunner:
    def __init__(self, stores: RunnerStores, engine: ComfyEngine, catalogue: Catalogue, policy: RunnerPolicy) -> None:
        self._stores = stores
        self._engine = engine
        self._catalogue = catalogue
        self._policy = policy

    async def run(self, stored: StoredJob) -> RunResult:
        """The job's terminal record. `AttemptFenced` if another attempt holds the job by now.

        When this is cancelled, the job goes back to the queue.
        """
        record = stored.record
        uploads = self._uploads(record)
        attempt = self._attempt(record, uploads)
        fenced = asyncio.get_running_loop().create_future()
        reporter = Reporter(
            self._stores.jobs,
            stored,
            self._stores.clock,
            self._policy.report,
            on_cancel=lambda: attempt.stop(JobCancelled(CANCELLED_MESSAGE)),
            on_fenced=lambda: fenced.set_result(None),
        )
        attempt.on_progress = lambda model: reporter.update(Snapshot.of(model, uploads.finished()))
        reporting = asyncio.create_task(reporter.run(self._stores.signal))
        work = asyncio.create_task(_perform(attempt, uploads))
        timeout = JobTimedOut(f"ran longer than its timeout of {record.timeout_s} s")
        deadline = asyncio.get_running_loop().call_later(record.timeout_s, attempt.stop, timeout)
        try:
            await asyncio.wait({work, fenced}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await _stop(work, uploads, reporter, reporting)
            await self._release(reporter.stored)
            raise
        finally:
            deadline.cancel()
        if fenced.done():
            await _stop(work, uploads, reporter, reporting)
            raise AttemptFenced(f"attempt {record.attempt} of job {record.job_id} was taken over")
        reporter.stop()
        await reporting
        concluded = await self._conclude(reporter.stored, work.result(), reporter.details)
        return RunResult(concluded, attempt.engine_suspect)

    def _uploads(self, record: JobRecord) -> OutputUploads:
        return OutputUploads(
            self._engine,
            self._stores.objects,
            AttemptKeys(record.tenant, record.job_id, record.attempt),
            parallel=self._policy.parallel_uploads,
            inline_text_bytes=self._policy.inline_text_bytes,
        )

    def _attempt(self, record: JobRecord, uploads: OutputUploads) -> Attempt:
        bench = Workbench(
            self._stores.jobs, self._stores.objects, self._engine, self._catalogue, self._policy.execution
        )
        return Attempt(bench, record, uploads)

    async def _conclude(self, stored: StoredJob, outcome: "_Outcome", details: ProgressDetails | None) -> StoredJob:
        """Commit the terminal record, however long the bucket takes to come back (within reason)."""
        attempt = stored.record.attempt

        def concluded(record: JobRecord) -> JobRecord:
            now = self._stores.clock.now()
            if outcome.failure is None:
                nodes = details.nodes_total if details else 0
                return record.complete(attempt=attempt, now=now, outputs=outcome.outputs, nodes_total=nodes)
            error = _detail(outcome.failure, attempt)
            return record.fail(attempt=attempt, now=now, error=error, outputs=outcome.outputs, details=details)

        concluded_job = await self._commit(stored, concluded)
        if outcome.failure is None:
            await self._remember_runtime(concluded_job.record)
        return concluded_job

    async def _commit(self, stored: StoredJob, change: Change) -> StoredJob:
        return await patiently(lambda: self._stores.jobs.evolve_from(stored, change))

    async def _release(self, stored: StoredJob) -> None:
        record = stored.record
        try:
            await self._commit(stored, lambda current: current.release(attempt=record.attempt))
        except StorageError as error:
            logger.warning("job %s could not be given back, its lease will end: %s", record.job_id, error)

    async def _remember_runtime(self, record: JobRecord) -> None:
        if record.started_at is None or record.completed_at is None:
            return
        seconds = (record.completed_at - record.started_at).total_seconds()
        try:
            await self._stores.runtimes.record(record.tenant, record.workflow_shape, seconds)
        except StorageError as error:
            logger.info("the run time of job %s was not remembered: %s", record.job_id, error)


@dataclass(frozen=True, slots=True)
class _Outcome:
    outputs: tuple[Output, ...]
    failure: WorkerError | None


async def _perform(attempt: Attempt, uploads: OutputUploads) -> _Outcome:
    """The attempt and its uploads; outputs that were stored before a failure are kept."""
    failure: WorkerError | None = None
    try:
        await attempt.perform()
    except WorkerError as error:
        failure = error
    except StorageError as error:
        failure = StagingFailed(f"the bucket failed before the engine ran: {error}")
    except Exception:
        logger.exception("an attempt failed in a way that no one foresaw")
        failure = WorkerError("internal error; the worker's log has the details")
    try:
        return _Outcome(await uploads.all(), failure)
    except OutputFailed as error:
        return _Outcome(uploads.finished(), failure or error)


async def _stop(
    work: asyncio.Task[_Outcome], uploads: OutputUploads, reporter: Reporter, reporting: asyncio.Task[None]
) -> None:
    """End everything of the attempt and write nothing more."""
    work.cancel()
    reporter.stop()
    await asyncio.gather(work, reporting, return_exceptions=True)
    await uploads.stop()


def _detail(failure: WorkerError, attempt: int) -> ErrorDetail:
    return ErrorDetail(
        code=failure.code,
        message=strict_text(failure.message),
        node_id=failure.node_id,
        class_type=failure.class_type,
        exception_type=failure.exception_type,
        attempt=attempt,
        node_errors=strict_json(failure.node_errors) if failure.node_errors else None,
    )

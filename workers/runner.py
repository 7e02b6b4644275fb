"""`JobRunner` runs a claimed job to the end of its attempt and commits how it ended.

An infrastructure fault returns the job to the queue while attempts are left (`workers.retries`). A fenced attempt
writes nothing; a worker that shuts down releases its job.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from storage.access.partner_keys import PartnerKeyStore
from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.errors import AttemptFenced, StorageError
from storage.intake.host_paths import HostPaths
from storage.jobs.logs import LogStore
from storage.jobs.models import ErrorDetail, Output, ProgressDetails
from storage.jobs.record import CANCELLED_MESSAGE, JobRecord
from storage.jobs.store import JobStore, KeysAhead, StoredJob
from storage.pools.runtimes import RuntimeStore
from storage.signal import Signal
from workers.attempt import Attempt, Workbench
from workers.comfy.engine import ComfyEngine
from workers.comfy.execution import ExecutionPolicy
from workers.comfy.refusals import bounded, warnings_of
from workers.errors import EngineError, JobCancelled, JobTimedOut, StorageFailed, WorkerError
from workers.joblog import JobLog, LogSource
from workers.outputs.payload import strict_json
from workers.outputs.uploads import AttemptKeys, OutputUploads, UploadPolicy
from workers.reporter import Reporter, ReportPolicy, Snapshot
from workers.retries import is_repeated, is_retryable
from workers.staging import StagingPolicy
from workers.storage_retries import retry_while_unavailable
from workflows.catalogue import Catalogue

logger = logging.getLogger(__name__)

LAST_WRITE_S = 3.0
"""Seconds that a stopping worker has to commit how its job ended, or to release it."""


@dataclass(frozen=True, slots=True)
class RunnerPolicy:
    """`max_attempts` is the same as the reaper's; `log_interval_s` is the time between two writes of the job's log."""

    max_attempts: int = 3
    log_interval_s: float = 10.0
    uploads: UploadPolicy = field(default_factory=UploadPolicy)
    staging: StagingPolicy = field(default_factory=StagingPolicy)
    report: ReportPolicy = field(default_factory=ReportPolicy)
    execution: ExecutionPolicy = field(default_factory=ExecutionPolicy)


@dataclass(frozen=True, slots=True)
class RunnerStores:
    jobs: JobStore
    objects: ObjectStore
    partner_keys: PartnerKeyStore
    runtimes: RuntimeStore
    logs: LogStore
    signal: Signal
    clock: Clock


@dataclass(frozen=True, slots=True)
class RunResult:
    """The job after its attempt. If `engine_suspect`, the engine must be restarted before the next job."""

    stored: StoredJob
    engine_suspect: bool = False


class JobRunner:
    """`log` is the engine's live output. `paths` are hidden wherever tenants read it, or errors."""

    def __init__(
        self,
        stores: RunnerStores,
        engine: ComfyEngine,
        catalogue: Catalogue,
        policy: RunnerPolicy,
        log: LogSource,
        paths: HostPaths | None = None,
    ) -> None:
        self._stores = stores
        self._engine = engine
        self._catalogue = catalogue
        self._policy = policy
        self._log = log
        self._paths = paths or HostPaths()

    async def run(self, stored: StoredJob) -> RunResult:
        """Run the attempt; return the job finished or queued again. Cancelling this call releases the job.

        Raises `AttemptFenced` if another attempt holds the job.
        """
        interval_s = self._policy.log_interval_s
        log = JobLog(self._stores.logs, stored.record, self._log, self._paths, interval_s=interval_s)
        log.start()
        try:
            reached, outcome, engine_suspect = await self._attempted(stored, log)
        except BaseException:
            log.abandon()  # another attempt may hold the job, or soon will
            raise
        concluded = await _committed(self._conclude(reached, outcome, log))
        return RunResult(concluded, engine_suspect)

    async def _attempted(self, stored: StoredJob, log: JobLog) -> tuple[StoredJob, "_Outcome", bool]:
        """Return the newest known record, the attempt's outcome, and whether the engine is suspect."""
        uploads = self._uploads(stored.record)
        attempt = self._attempt(stored, uploads)
        work = asyncio.create_task(self._perform(stored.record, attempt, uploads, log))
        reporter = self._reporter(stored, attempt, uploads, on_fenced=work.cancel)
        reporting = asyncio.create_task(reporter.run(self._stores.signal))
        try:
            with _time_limit(attempt, stored.record.timeout_s):
                await asyncio.wait({work})
            # The last report ends before the outcome is committed, so the two writes do not race.
            reporter.stop()
            await asyncio.wait({reporting})
        except asyncio.CancelledError:
            await _stop(work, reporter, reporting, uploads)
            if not reporter.is_fenced:
                # A release returns the job at once; otherwise it would wait for the end of its lease.
                await give_back(self._stores.jobs, self._stores.clock, reporter.stored)
            raise
        if reporter.is_fenced:
            # Another attempt holds the job, so this one may commit no result.
            await _stop(work, reporter, reporting, uploads)
            raise AttemptFenced(f"attempt {stored.record.attempt} of job {stored.record.job_id} was taken over")
        outcome = work.result()
        return reporter.stored, outcome, attempt.engine_suspect or isinstance(outcome.failure, EngineError)

    async def _perform(self, record: JobRecord, attempt: Attempt, uploads: OutputUploads, log: JobLog) -> "_Outcome":
        """Perform the attempt and store its outputs. Outputs that were stored before a failure are kept."""
        failure = await _failure_of(attempt.perform())
        log.catch_up()
        # The keys of the end are written in the same round as the last outputs, so that the end takes one round.
        writing = None if failure else asyncio.create_task(self._write_end_ahead(record))
        try:
            upload_failure = await _failure_of(attempt.store_outputs())
            ahead = None if writing is None else await writing
        finally:
            if writing is not None:
                writing.cancel()
        outputs = uploads.finished()
        details = Snapshot.of(attempt.progress, outputs).details if attempt.progress else None
        return _Outcome(outputs, failure or upload_failure, details, attempt.node_errors, ahead)

    async def _write_end_ahead(self, record: JobRecord) -> KeysAhead | None:
        """Write the keys of the job's completion; return None if the bucket fails."""
        try:
            return await self._stores.jobs.write_end_ahead(record)
        except StorageError:
            return None  # the commit of the end writes them

    def _reporter(
        self, stored: StoredJob, attempt: Attempt, uploads: OutputUploads, *, on_fenced: Callable[[], object]
    ) -> Reporter:
        return Reporter(
            self._stores.jobs,
            stored,
            self._stores.clock,
            self._policy.report,
            observe=lambda: Snapshot.of(attempt.progress, uploads.finished()) if attempt.progress else None,
            on_cancel=lambda: attempt.stop(JobCancelled(CANCELLED_MESSAGE)),
            on_fenced=on_fenced,
        )

    def _uploads(self, record: JobRecord) -> OutputUploads:
        return OutputUploads(
            self._engine,
            self._stores.objects,
            AttemptKeys(record.tenant, record.job_id, record.attempt),
            self._policy.uploads,
        )

    def _attempt(self, claimed: StoredJob, uploads: OutputUploads) -> Attempt:
        stores, policy = self._stores, self._policy
        bench = Workbench(
            stores.jobs,
            stores.objects,
            stores.partner_keys,
            self._engine,
            self._catalogue,
            policy.execution,
            policy.staging,
        )
        return Attempt(bench, claimed, uploads)

    async def _conclude(self, stored: StoredJob, outcome: "_Outcome", log: JobLog) -> StoredJob:
        """Commit how the attempt ended, with retries while the bucket is unavailable."""
        await log.finish()  # before the commit, so that a finished job has its whole log
        attempt = stored.record.attempt
        details = outcome.details

        def concluded(record: JobRecord) -> JobRecord:
            now = self._stores.clock.now()
            # `evolve_from` may call this again with a newer record, for example after a cancel request.
            if outcome.node_errors is not None:
                warnings = warnings_of(self._paths.hidden_in(bounded(outcome.node_errors)), record.warnings)
                record = record.with_warnings(strict_json(warnings))
            if outcome.failure is None:
                nodes = details.nodes_total if details else 0
                return record.complete(attempt=attempt, now=now, outputs=outcome.outputs, nodes_total=nodes)
            error = _detail(outcome.failure, attempt, self._paths)
            if is_repeated(error.code) and record.may_be_repeated(self._policy.max_attempts):
                return record.requeue(attempt=attempt, now=now, fault=error)
            return record.fail(attempt=attempt, now=now, error=error, outputs=outcome.outputs, details=details)

        concluded_job = await retry_while_unavailable(
            lambda: self._stores.jobs.evolve_from(stored, concluded, ahead=outcome.ahead)
        )
        if outcome.failure is None:
            await self._remember_runtime(concluded_job.record)
        # A job that is queued again still needs its key.
        if concluded_job.record.has_partner_key and concluded_job.record.status.is_terminal:
            await self._forget_partner_key(concluded_job.record)
        return concluded_job

    async def _forget_partner_key(self, record: JobRecord) -> None:
        try:
            await self._stores.partner_keys.forget(record.tenant, record.job_id)
        except StorageError as error:
            logger.info("the partner key of job %s goes with the job: %s", record.job_id, error)

    async def _remember_runtime(self, record: JobRecord) -> None:
        if record.started_at is None or record.completed_at is None:
            return
        seconds = (record.completed_at - record.started_at).total_seconds()
        try:
            await self._stores.runtimes.record(record.tenant, record.workflow_shape, seconds)
        except StorageError as error:
            logger.info("the run time of job %s was not remembered: %s", record.job_id, error)


async def give_back(jobs: JobStore, clock: Clock, stored: StoredJob) -> None:
    """Release a job to the queue. If this fails, the job returns to the queue when its lease expires."""
    record = stored.record

    def released(current: JobRecord) -> JobRecord:
        return current.release(attempt=record.attempt, now=clock.now())

    try:
        async with asyncio.timeout(LAST_WRITE_S):
            await retry_while_unavailable(lambda: jobs.evolve_from(stored, released))
    except (StorageError, TimeoutError) as error:
        logger.warning("job %s could not be given back, its lease will end: %r", record.job_id, error)


@dataclass(frozen=True, slots=True)
class _Outcome:
    outputs: tuple[Output, ...]
    failure: WorkerError | None
    details: ProgressDetails | None
    node_errors: Mapping[str, Any] | None
    ahead: KeysAhead | None = None


async def _failure_of(work: Awaitable[object]) -> WorkerError | None:
    """Await `work` and return its failure, None on success; an unexpected exception becomes an internal error."""
    try:
        await work
    except WorkerError as error:
        return error
    except StorageError as error:
        return StorageFailed(f"the bucket failed before the engine ran: {error}")
    except Exception:  # a defect of ours must end the job rather than its worker
        logger.exception("an attempt failed in a way that no one foresaw")
        return WorkerError("internal error; the worker's log has the details")
    return None


@contextlib.contextmanager
def _time_limit(attempt: Attempt, timeout_s: int) -> Iterator[None]:
    timeout = JobTimedOut(f"ran longer than its timeout of {timeout_s} s")
    deadline = asyncio.get_running_loop().call_later(timeout_s, attempt.stop, timeout)
    try:
        yield
    finally:
        deadline.cancel()


async def _stop(
    work: asyncio.Task[_Outcome], reporter: Reporter, reporting: asyncio.Task[None], uploads: OutputUploads
) -> None:
    """Cancel the tasks of the attempt; nothing is written after this."""
    work.cancel()
    reporter.stop()
    await asyncio.gather(work, reporting, return_exceptions=True)
    await uploads.stop()


async def _committed(last_write: Coroutine[Any, Any, StoredJob]) -> StoredJob:
    """Await the last write of a job. A cancellation leaves it `LAST_WRITE_S` seconds to end."""
    # Without this, a finished job would run again because its worker was stopped during the commit.
    writing = asyncio.create_task(last_write)
    try:
        return await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait({writing}, timeout=LAST_WRITE_S)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        raise


def _detail(failure: WorkerError, attempt: int, paths: HostPaths) -> ErrorDetail:
    """Return a failure as the record, its events and the API report it: the only place where they take engine text."""
    detail = ErrorDetail(
        code=failure.code,
        message=paths.hidden(failure.message),
        node_id=failure.node_id,
        class_type=failure.class_type,
        exception_type=failure.exception_type,
        attempt=attempt,
        node_errors=paths.hidden_in(failure.node_errors) if failure.node_errors else None,
        retryable=is_retryable(failure.code),
    )
    return ErrorDetail.model_validate(strict_json(detail.model_dump()))

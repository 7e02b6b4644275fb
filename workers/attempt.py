"""One attempt of a claimed job, from the staging of its inputs to the commit of how it ended.

Meanwhile a `Reporter` writes progress, renews the lease and receives cancel requests, and a `JobLog` writes the
engine's output. An infrastructure fault returns the job to the queue while attempts are left. A fenced attempt writes
nothing; a worker that shuts down releases its job.
"""

import asyncio
import contextlib
import json
import logging
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from storage.bucket.objects import ObjectStore
from storage.bucket.records import retry_while_unavailable
from storage.concurrency import gather
from storage.errors import CheckUnavailable, FileRefused, ObjectNotFound, SealBroken, StorageError
from storage.intake.host_paths import HostPaths
from storage.intake.media_check import MediaCheck, MediaLimits
from storage.jobs.models import ErrorDetail, InputFile
from storage.jobs.record import JobRecord
from storage.jobs.store import StoredJob
from storage.jobs.timers import KeysAhead
from storage.stores import Stores
from workers.comfy.engine import ComfyEngine, Prompt
from workers.comfy.execution import Execution, ExecutionPolicy
from workers.comfy.host import EngineHost
from workers.comfy.refusals import bounded, not_run, warnings_of
from workers.errors import (
    BadInputFile,
    CheckFailed,
    EngineError,
    JobCancelled,
    JobTimedOut,
    OutOfMemory,
    OutputFailed,
    PromptRefused,
    Repeat,
    StagingFailed,
    StorageFailed,
    WorkerError,
)
from workers.joblog import JobLog
from workers.outputs.payload import strict_json
from workers.outputs.uploads import OutputUploads, UploadPolicy
from workers.reporter import Reporter, ReportPolicy, Snapshot
from workflows import strangers
from workflows.catalogue import Catalogue
from workflows.errors import WorkflowError
from workflows.execution import for_execution
from workflows.graph import Graph, parse_graph
from workflows.progress import ProgressModel

logger = logging.getLogger(__name__)

INTERNAL_ERROR = "internal error; the worker's log has the details"
PARTNER_KEY = "api_key_comfy_org"
"""The name of the partner key in a prompt's extra_data, given by ComfyUI."""
LAST_UPLOADS_S = 5.0
"""Seconds that uploads may still take after a stop, since the GPU is held meanwhile."""
LAST_WRITE_S = 3.0
"""Seconds that a stopping worker has to commit how its job ended, or to release it."""


@dataclass(frozen=True, slots=True)
class AttemptPolicy:
    """`max_attempts` is the same as the reaper's; `log_interval_s` is the time between two writes of the job's log.

    `media_checks` is the number of input files examined at once; None means `default_probes`.
    """

    max_attempts: int = 3
    log_interval_s: float = 10.0
    media_limits: MediaLimits = field(default_factory=MediaLimits)
    media_checks: int | None = None
    uploads: UploadPolicy = field(default_factory=UploadPolicy)
    report: ReportPolicy = field(default_factory=ReportPolicy)
    execution: ExecutionPolicy = field(default_factory=ExecutionPolicy)


class Attempt:
    """`run` is called once. If `engine_suspect` is true afterwards, the engine needs a restart before the next job."""

    def __init__(
        self, claimed: StoredJob, stores: Stores, host: EngineHost, catalogue: Catalogue, policy: AttemptPolicy
    ) -> None:
        self.engine_suspect = False
        self._claimed = claimed
        self._record = record = claimed.record
        self._stores = stores
        self._engine = host.engine
        self._paths = host.paths
        self._catalogue = catalogue
        self._policy = policy
        self._log = JobLog(stores.logs, record, host.log, host.paths, interval_s=policy.log_interval_s)
        self._uploads = OutputUploads(host.engine, stores.objects, record, policy.uploads)
        self._progress: ProgressModel | None = None  # until the prompt is submitted
        self._preparing: asyncio.Task[tuple[Graph, Prompt]] | None = None
        self._execution: Execution | None = None
        self._reason: WorkerError | None = None
        self._stopped = asyncio.Event()
        self._failure: WorkerError | None = None
        self._ahead: KeysAhead | None = None

    async def run(self) -> StoredJob:
        """Run the job; return it finished or queued again. Cancelling this call releases the job.

        Raises `AttemptFenced` if another attempt holds the job.
        """
        self._log.start()
        try:
            newest = await self._run_reported()
        except BaseException:
            self._log.abandon()  # another attempt may hold the job, or soon will
            raise
        return await _committed(self._conclude(newest))

    async def _run_reported(self) -> StoredJob:
        """Do the work while its progress is reported and its time is limited; return the newest known record."""
        stores, record = self._stores, self._record
        work = asyncio.create_task(self._work())
        reporter = Reporter(
            stores.jobs,
            self._claimed,
            stores.clock,
            self._policy.report,
            observe=self._snapshot,
            on_stop=self._stop,
            on_fenced=work.cancel,
        )
        reporting = asyncio.create_task(reporter.run(stores.signal))
        too_long = JobTimedOut(f"ran longer than its timeout of {record.timeout_s} s")
        limit = asyncio.get_running_loop().call_later(record.timeout_s, self._stop, too_long)
        try:
            await asyncio.wait({work})
            # The last report ends before the outcome is committed, so the two writes do not race.
            reporter.stop()
            await asyncio.wait({reporting})
            if reporter.is_fenced:
                reporting.result()  # raises; a defect of the reporter does not end the attempt
            work.result()
        except BaseException:
            work.cancel()
            reporter.stop()
            await asyncio.gather(work, reporting, return_exceptions=True)
            await self._uploads.stop()
            if not reporter.is_fenced:
                # A release returns the job at once; otherwise it would wait for the end of its lease.
                await give_back(stores, reporter.stored)
            raise
        finally:
            limit.cancel()
        return reporter.stored

    def _snapshot(self) -> Snapshot | None:
        return None if self._progress is None else Snapshot.of(self._progress, self._uploads.finished())

    def _stop(self, reason: WorkerError) -> None:
        """Interrupt the work at any point, so that it fails with `reason`. The first reason counts."""
        if self._reason is not None:
            return
        self._reason = reason
        self._stopped.set()
        if self._execution is not None:
            self._execution.cancel()
        elif self._preparing is not None:
            self._preparing.cancel()

    async def _work(self) -> None:
        """Run the prompt, store its outputs and set `_failure`. Outputs that were stored before a failure are kept."""
        self._failure = await _failure_of(self._run_prompt())
        self._log.catch_up()
        storing = _failure_of(self._store_outputs())
        if self._failure is not None:
            await storing
        else:
            # The keys of the end are written in the same round as the last outputs, so that the end takes one round.
            self._failure, self._ahead = await asyncio.gather(storing, self._write_end_ahead())
        self.engine_suspect = self.engine_suspect or isinstance(self._failure, EngineError)

    async def _run_prompt(self) -> None:
        try:
            graph, prompt = await self._prepared()
            self._execution = Execution(self._engine, prompt, self._policy.execution)
            await self._follow(graph, self._execution)
        except (JobCancelled, EngineError) as fault:
            self.engine_suspect = isinstance(fault, EngineError)
            raise (self._reason or fault) from fault  # the end that `_stop` asked for
        except OutOfMemory:
            self.engine_suspect = True  # the GPU's memory may stay fragmented or occupied
            raise
        finally:
            if self._execution is not None and self._execution.was_abandoned:
                self.engine_suspect = True

    async def _prepared(self) -> tuple[Graph, Prompt]:
        """Return the graph and its staged prompt. Raises the reason at once if the attempt is stopped meanwhile."""
        # A task, so that `_stop` can cancel it: the download of large inputs takes long.
        self._preparing = asyncio.create_task(self._prepare())
        await asyncio.gather(self._preparing, return_exceptions=True)
        if self._reason is not None:
            raise self._reason
        return self._preparing.result()

    async def _prepare(self) -> tuple[Graph, Prompt]:
        """Stage the files while the graph is read and checked. The prompt's graph is derived from the checked one."""
        record = self._record
        staging = asyncio.create_task(self._stage())
        try:
            graph, extra_data = await self._graph(), await self._extra_data()
            await staging
        finally:
            staging.cancel()
            await asyncio.gather(staging, return_exceptions=True)
        files = {file.name: file.key for file in record.input_files}
        attempt = f"{record.job_id}-{record.attempt}"
        document = for_execution(graph, self._catalogue, attempt, self._engine.showing, files)
        return graph, Prompt(str(uuid.uuid4()), str(uuid.uuid4()), document, extra_data, record.is_strict)

    async def _stage(self) -> None:
        await self._engine.files.clean()
        check = MediaCheck(self._policy.media_checks)
        await stage(self._record.input_files, self._stores.objects, self._engine, check, self._policy.media_limits)

    async def _graph(self) -> Graph:
        """Return the submitted graph with the job's inputs, checked against this engine."""
        record, jobs, workflow = self._record, self._stores.jobs, self._claimed.workflow
        if workflow is None:  # it could not be read with the claim
            workflow = await jobs.workflow(record.tenant, record.job_id)
        document, inputs = json.loads(workflow), await jobs.inputs(record)
        # The submission checked the graph too, but the engine may have changed or have been unknown then.
        try:
            graph = self._catalogue.apply(parse_graph(document), [(i.node, i.field, i.value) for i in inputs])
            if record.graphs == "strangers":
                strangers.check(graph, self._catalogue)
        except WorkflowError as error:
            raise PromptRefused(error.message, node_id=error.node_id) from error
        return graph

    async def _extra_data(self) -> dict[str, str]:
        if not self._record.has_partner_key:
            return {}
        try:
            return {PARTNER_KEY: await self._stores.partner_keys.read(self._record.tenant, self._record.job_id)}
        except SealBroken as error:
            raise StagingFailed(str(error)) from error

    async def _follow(self, graph: Graph, execution: Execution) -> None:
        """Follow the prompt's messages to its end, and start the uploads of its outputs."""
        outputs = self._catalogue.output_nodes(graph)
        self._progress = ProgressModel.start(graph.ancestors(outputs))
        has_begun = False
        async with contextlib.aclosing(aiter(execution)) as messages:
            async for message in messages:
                if not has_begun:
                    # `node_errors` is known from the first message on: outputs that do not run do not count.
                    has_begun = True
                    outputs -= not_run(execution.node_errors or {}, self._record.warnings)
                    self._progress = ProgressModel.start(graph.ancestors(outputs))
                await self._uploads.collect(message, graph, self._progress.current_node)
                self._progress = self._progress.reduce(message)

    async def _store_outputs(self) -> None:
        """Wait for every upload and raise the first failure.

        After `_stop` the uploads have `LAST_UPLOADS_S` seconds; then the reason is raised, and finished ones are kept.
        """
        storing = asyncio.create_task(self._uploads.all())
        stopping = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait({storing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._reason is None:
                await storing
                return
            await asyncio.wait({storing}, timeout=LAST_UPLOADS_S)
            raise self._reason
        finally:
            stopping.cancel()
            storing.cancel()
            await asyncio.gather(storing, stopping, return_exceptions=True)

    async def _write_end_ahead(self) -> KeysAhead | None:
        """Write the keys of the job's completion; return None if the bucket fails."""
        try:
            return await self._stores.jobs.write_end_ahead(self._record)
        except StorageError:
            return None  # the commit of the end writes them

    async def _conclude(self, newest: StoredJob) -> StoredJob:
        """Commit how the attempt ended, with retries while the bucket is unavailable."""
        try:
            await self._log.finish()  # before the commit, so that a finished job has its whole log
            stored = await self._committed_end(newest, self._ended)
        except StorageError:
            raise
        except OutputFailed as error:  # the record would be too large
            self._failure = self._failure or error
            stored = await self._committed_end(newest, partial(self._ended_short, self._failure))
        except Exception:  # a defect, as of a value that no record can hold, must end the job rather than its worker
            logger.exception("an attempt could not be concluded")
            stored = await self._committed_end(newest, partial(self._ended_short, WorkerError(INTERNAL_ERROR)))
        record = stored.record
        if self._failure is None and record.started_at is not None and record.completed_at is not None:
            seconds = (record.completed_at - record.started_at).total_seconds()
            with contextlib.suppress(StorageError):  # estimates have the run times of other jobs
                await self._stores.runtimes.record(record.tenant, record.workflow_shape, seconds)
        # A job that is queued again still needs its key.
        if record.has_partner_key and record.status.is_terminal:
            with contextlib.suppress(StorageError):  # the key is then removed with the job
                await self._stores.partner_keys.forget(record.tenant, record.job_id)
        return stored

    async def _committed_end(self, newest: StoredJob, ended: Callable[[JobRecord], JobRecord]) -> StoredJob:
        return await retry_while_unavailable(lambda: self._stores.jobs.evolve_from(newest, ended, ahead=self._ahead))

    def _ended_short(self, failure: WorkerError, record: JobRecord) -> JobRecord:
        """Return the failed record with nothing new of the engine's: only what an earlier write has accepted."""
        attempt = self._record.attempt
        error = _error_detail(failure, attempt, self._paths)
        return record.fail(attempt=attempt, now=self._stores.clock.now(), error=error, outputs=record.outputs)

    def _ended(self, record: JobRecord) -> JobRecord:
        """Return the record after the attempt. Raises `OutputFailed` if it is too large.

        It may be called again with a newer one, as after a cancel request.
        """
        return self._policy.report.checked(self._after(record))

    def _after(self, record: JobRecord) -> JobRecord:
        now, attempt, snapshot = self._stores.clock.now(), self._record.attempt, self._snapshot()
        outputs, details = self._uploads.finished(), None if snapshot is None else snapshot.details
        if self._execution is not None and self._execution.node_errors is not None:
            errors = self._paths.hidden_in(bounded(self._execution.node_errors))
            record = record.with_warnings(strict_json(warnings_of(errors, record.warnings)))
        failure = self._failure
        if failure is None:
            nodes = details.nodes_total if details else 0
            return record.complete(attempt=attempt, now=now, outputs=outputs, nodes_total=nodes)
        error = _error_detail(failure, attempt, self._paths)
        if failure.repeat is Repeat.AUTOMATIC and record.may_be_repeated(self._policy.max_attempts):
            return record.requeue(attempt=attempt, now=now, fault=error)
        return record.fail(attempt=attempt, now=now, error=error, outputs=outputs, details=details)


async def stage(
    files: tuple[InputFile, ...], objects: ObjectStore, engine: ComfyEngine, check: MediaCheck, limits: MediaLimits
) -> None:
    """Stage all input files concurrently in constant memory. Presigned uploads are checked here for the first time."""

    async def stage_one(file: InputFile, path: Path) -> None:
        try:
            await objects.download_file(file.key, path)
            await check.check(path, limits, data=True)
        except ObjectNotFound:
            raise StagingFailed(f"the bytes of {file.name} are no longer in the bucket") from None
        except FileRefused as error:
            raise BadInputFile(f"{file.name}: {error}") from error
        except CheckUnavailable as error:
            raise CheckFailed(f"{file.name}: {error}") from error
        await engine.files.stage(file.name, path)

    with tempfile.TemporaryDirectory(prefix="comfyui-modal-input-") as folder:
        await gather(*(stage_one(file, Path(folder) / f"{position:03d}") for position, file in enumerate(files)))


async def give_back(stores: Stores, stored: StoredJob) -> None:
    """Release a job to the queue. If this fails, the job returns to the queue when its lease expires."""
    record = stored.record

    def released(current: JobRecord) -> JobRecord:
        return current.release(attempt=record.attempt, now=stores.clock.now())

    try:
        async with asyncio.timeout(LAST_WRITE_S):
            await retry_while_unavailable(lambda: stores.jobs.evolve_from(stored, released))
    except (StorageError, TimeoutError) as error:
        logger.warning("job %s could not be given back, its lease will end: %r", record.job_id, error)


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
        return WorkerError(INTERNAL_ERROR)
    return None


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


def _error_detail(failure: WorkerError, attempt: int, paths: HostPaths) -> ErrorDetail:
    """Return a failure as the record, its events and the API report it: the only place where they take engine text."""
    detail = ErrorDetail(
        code=failure.code,
        message=paths.hidden(failure.message),
        node_id=failure.node_id,
        class_type=failure.class_type,
        exception_type=failure.exception_type,
        attempt=attempt,
        node_errors=paths.hidden_in(failure.node_errors) if failure.node_errors else None,
        retryable=failure.repeat is not Repeat.NEVER,
    )
    return ErrorDetail.model_validate(strict_json(detail.model_dump()))

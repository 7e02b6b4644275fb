"""One attempt of a claimed job, in two phases.

execute    holds the engine: the prompt from its submission to its end, and the fetching of its outputs. Afterwards the
           engine's folders may be emptied and the engine may run another job, or be restarted.
conclude   needs no engine: the rest of the uploads, the log, and the commit of how the attempt ended.

In both phases a `Reporter` writes progress, renews the lease and receives cancel requests, and the job's timeout runs.
An infrastructure fault returns the job to the queue while attempts are left. A fenced attempt writes nothing; an
attempt that is cancelled releases its job.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from storage.concurrency import gather
from storage.errors import StorageError
from storage.jobs.models import AttemptTimes
from storage.jobs.store import StoredJob
from storage.stores import Stores
from workers.comfy.engine import Prompt
from workers.comfy.execution import Execution, ExecutionPolicy
from workers.comfy.host import EngineHost
from workers.comfy.refusals import not_run
from workers.comfy.standby import Standby
from workers.ending import INTERNAL_ERROR, EndCommit, Ending, finish_last_write, give_back
from workers.engine_time import EngineTime, Phases
from workers.errors import (
    DeadlineExceeded,
    EngineError,
    JobCancelled,
    JobTimedOut,
    OutOfMemory,
    StorageFailed,
    WorkerDiskFull,
    WorkerError,
)
from workers.joblog import JobLog
from workers.live import LivePreviews
from workers.outputs.uploads import OutputUploads, UploadPolicy
from workers.preparation import Preparation, PreparationPolicy
from workers.reporter import Reporter, ReportPolicy, Snapshot
from workflows.catalogue import Catalogue
from workflows.execution import for_execution
from workflows.graph import Graph
from workflows.messages import Message
from workflows.progress import ProgressModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AttemptPolicy:
    """`max_attempts` is the same as the reaper's; `log_interval_s` is the time between two writes of the job's log.

    `min_free_bytes` must be free on the worker's disk before a job is claimed.
    """

    max_attempts: int = 3
    min_free_bytes: int = 0
    log_interval_s: float = 10.0
    last_uploads_s: float = 5.0
    """Seconds that uploads, and the look-ups of files that nodes name, may still take after the job was stopped, as by
    a cancel request."""
    preparation: PreparationPolicy = field(default_factory=PreparationPolicy)
    uploads: UploadPolicy = field(default_factory=UploadPolicy)
    report: ReportPolicy = field(default_factory=ReportPolicy)
    execution: ExecutionPolicy = field(default_factory=ExecutionPolicy)


@dataclass(frozen=True, slots=True)
class HeadStart:
    """What was begun for a job before its claim."""

    preparation: Preparation
    standby: Standby


class Attempt:
    """`execute`, then `conclude`, each once. The attempt closes its head start.

    If `engine_suspect` is true after `execute`, the engine needs a restart before the next job. `is_submitted` is set
    when the engine gets the prompt.
    """

    def __init__(
        self,
        claimed: StoredJob,
        stores: Stores,
        host: EngineHost,
        catalogue: Catalogue,
        policy: AttemptPolicy,
        head_start: HeadStart | None = None,
        engine_time: EngineTime | None = None,
    ) -> None:
        self.engine_suspect = False
        self.is_submitted = asyncio.Event()
        self.claimed = claimed
        self._record = record = claimed.record
        self._stores = stores
        self._engine = host.engine
        self._catalogue = catalogue
        self._policy = policy
        if head_start is None:
            preparation = Preparation(claimed, stores, host.engine.files, catalogue, policy.preparation)
            head_start = HeadStart(preparation, Standby(host.engine, policy.execution))
        self._preparation, self._standby = head_start.preparation, head_start.standby
        self._log = JobLog(stores.logs, record, host.log, host.paths, interval_s=policy.log_interval_s)
        self._uploads = OutputUploads(host.engine, stores.objects, record, policy.uploads)
        self._end = EndCommit(stores, host.paths, policy.report, policy.max_attempts)
        self._reporter = Reporter(
            stores.jobs,
            claimed,
            stores.clock,
            policy.report,
            observe=self._snapshot,
            on_stop=self._stop,
            on_fenced=self._cancel_work,
        )
        self._previews = LivePreviews(stores.live, stores.clock, lambda: self._reporter.stored.record)
        self._work: asyncio.Task[None] | None = None
        self._reporting: asyncio.Task[None] | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._progress: ProgressModel | None = None  # until the prompt is submitted
        self._preparing: asyncio.Task[tuple[Graph, Prompt]] | None = None
        self._execution: Execution | None = None
        self._reason: WorkerError | None = None
        self._stopped = asyncio.Event()
        self._collect_until: float | None = None
        self._collecting: asyncio.Timeout | None = None
        self._failure: WorkerError | None = None
        self._engine_time = engine_time or EngineTime()
        self._phases = Phases()
        self._gpu_idle_s: float | None = None

    @property
    def timed_out_s(self) -> float:
        """The job's timeout in seconds if it passed while the engine had its prompt, otherwise 0."""
        is_late = isinstance(self._failure, JobTimedOut) and self.is_submitted.is_set()
        return self._record.timeout_s if is_late else 0.0

    @property
    def met_full_disk(self) -> bool:
        """Whether the attempt failed because the worker's disk took no more bytes."""
        return isinstance(self._failure, WorkerDiskFull)

    async def run(self) -> StoredJob:
        """Do both phases; return the job finished or queued again."""
        await self.execute()
        return await self.conclude()

    async def execute(self) -> None:
        """Run the prompt to its end. Cancelling this call releases the job.

        Raises `AttemptFenced` if another attempt holds the job.
        """
        self._log.start()
        self._reporting = asyncio.create_task(self._reporter.run(self._stores.signal))
        self._previews.start()
        left_s, too_late = self._time_limit()
        self._limit = asyncio.get_running_loop().call_later(left_s, self._stop, too_late)
        await self._while_reported(self._execute())

    async def conclude(self) -> StoredJob:
        """Store the outputs and commit the end; return the job finished or queued again.

        Cancelling this call releases the job, except during the commit. Raises as `execute`.
        """
        await self._while_reported(self._store())
        # The last report ends before the outcome is committed, so the two writes do not race.
        await self._while_reported(self._end_reports())
        await self._uploads.close()
        return await finish_last_write(self._commit())

    async def _while_reported(self, phase: Coroutine[Any, Any, None]) -> None:
        """Do a part of the work. If it fails, as by a fence or a cancellation, give up the attempt and raise."""
        assert self._reporting is not None  # noqa: S101  `execute` comes first
        self._work = work = asyncio.create_task(phase)
        try:
            if self._reporter.is_fenced:
                work.cancel()
            await asyncio.wait({work})
            if self._reporter.is_fenced:
                await self._reporting  # raises; a defect of the reporter does not end the attempt
            work.result()
        except BaseException:
            work.cancel()
            self._reporter.stop()
            await asyncio.gather(work, self._reporting, return_exceptions=True)
            await self._give_up()
            raise

    async def _give_up(self) -> None:
        self._end_limit()
        self._log.abandon()  # another attempt may hold the job, or soon will
        if not self._reporter.is_fenced:
            # A release returns the job at once; otherwise it would wait for the end of its lease.
            await give_back(self._stores, self._reporter.stored)
        await self._previews.stop()
        await self._preparation.close()
        await self._standby.close()
        await self._uploads.close()

    def _time_limit(self) -> tuple[float, WorkerError]:
        """Return the seconds until the attempt's timeout or the job's deadline, and the failure at that time."""
        record = self._record
        if record.deadline is not None:
            left_s = (record.deadline - self._stores.clock.now()).total_seconds()
            if left_s < record.timeout_s:
                return max(0.0, left_s), DeadlineExceeded(record.deadline_message)
        return record.timeout_s, JobTimedOut(f"ran longer than its timeout of {record.timeout_s} s")

    def _end_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()

    def _cancel_work(self) -> None:
        if self._work is not None:
            self._work.cancel()

    def _snapshot(self) -> Snapshot | None:
        return None if self._progress is None else Snapshot.of(self._progress, self._uploads.finished())

    def _stop(self, reason: WorkerError) -> None:
        """Interrupt the work at any point, so that it fails with `reason`. The first reason counts."""
        if self._reason is not None:
            return
        self._reason = reason
        self._stopped.set()
        self._collect_until = asyncio.get_running_loop().time() + self._policy.last_uploads_s
        if self._collecting is not None:
            self._collecting.reschedule(self._collect_until)
        if self._execution is not None:
            self._execution.cancel()
        elif self._preparing is not None:
            self._preparing.cancel()

    # The first phase.

    async def _execute(self) -> None:
        """Run the prompt, fetch its outputs and set `_failure`."""
        self._failure = await _failure_of(self._run_prompt())
        await self._preparation.close()
        await self._standby.close()
        await self._previews.stop()
        await self._until_stopped(self._uploads.fetched())
        await self._uploads.stop_fetching()
        self.engine_suspect = self.engine_suspect or self._uploads.has_lost_engine
        self._phases.end("staged" if self._gpu_idle_s is None else "executed")

    async def _run_prompt(self) -> None:
        try:
            graph, prompt = await self._prepared()
            self._execution = Execution(self._engine, prompt, self._policy.execution, self._standby.socket)
            self.is_submitted.set()
            self._phases.end("staged")
            await self._timed(self._follow(graph, self._execution))
        except (JobCancelled, EngineError) as fault:
            self.engine_suspect = isinstance(fault, EngineError)
            raise (self._reason or fault) from fault  # the end that `_stop` asked for
        except OutOfMemory:
            self.engine_suspect = True  # the GPU's memory may stay fragmented or occupied
            raise
        finally:
            if self._execution is not None and self._execution.was_abandoned:
                self.engine_suspect = True

    async def _timed(self, computing: Coroutine[Any, Any, None]) -> None:
        self._gpu_idle_s = self._engine_time.begin()
        try:
            await computing
        finally:
            self._engine_time.end()

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
            graph, extra_data = await self._preparation.graph(self._catalogue)
            await staging
        finally:
            staging.cancel()
            await asyncio.gather(staging, return_exceptions=True)
        files = {file.name: file.key for file in record.input_files}
        attempt = f"{record.job_id}-{record.attempt}"
        # In a thread: to search up to 12 MiB of texts for names of files takes seconds.
        document = await asyncio.to_thread(for_execution, graph, self._catalogue, attempt, self._engine.showing, files)
        return graph, Prompt(str(uuid.uuid4()), self._standby.socket.client_id, document, extra_data, record.is_strict)

    async def _stage(self) -> None:
        """Move the input files to the engine's folders once these are empty."""
        self._preparation.begin_files()
        await self._standby.cleaned()
        staged = await self._preparation.files()
        await gather(*(self._engine.files.stage(file.name, path) for file, path in staged))

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
                await self._collect(message, graph, self._progress.current_node)
                self._progress = self._progress.reduce(message)
                self._previews.notice(message, self._progress.current_node)

    async def _collect(self, message: Message, graph: Graph, current_node: str | None) -> None:
        """Start the uploads of a message's outputs. After `_stop` all messages together have `last_uploads_s`.

        An engine on another machine may take long to say which of up to 1,000 names are files.
        """
        try:
            async with asyncio.timeout_at(self._collect_until) as self._collecting:
                await self._uploads.collect(message, graph, current_node)
        except TimeoutError:
            if not self._stopped.is_set():
                raise
        finally:
            self._collecting = None

    # The second phase.

    async def _store(self) -> None:
        """Wait for the uploads and add their failure. Outputs that were stored before a failure are kept."""
        self._log.catch_up()
        storing = _failure_of(self._store_outputs())
        if self._failure is not None:
            await storing
        else:
            # The keys of the end are written in the same round as the last outputs, so that the end takes one round.
            self._failure, _ = await asyncio.gather(storing, self._end.write_ahead(self._record))
        self._phases.end("uploaded")

    async def _store_outputs(self) -> None:
        """Wait for every upload and raise the first failure, or the reason of a stop."""
        await self._until_stopped(self._uploads.all())
        if self._reason is not None:
            raise self._reason

    async def _until_stopped(self, work: Coroutine[Any, Any, object]) -> None:
        """Await work with the outputs. After `_stop` it has `last_uploads_s`, and its failure is ignored."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._reason is None:
                await working
            else:
                await asyncio.wait({working}, timeout=self._policy.last_uploads_s)
        finally:
            stopping.cancel()
            working.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    async def _end_reports(self) -> None:
        assert self._reporting is not None  # noqa: S101  `execute` comes first
        self._end_limit()
        self._reporter.stop()
        await asyncio.wait({self._reporting})

    async def _commit(self) -> StoredJob:
        """Commit how the attempt ended, with retries while the bucket is unavailable."""
        await self._log.finish()  # before the commit, so that a finished job has its whole log
        snapshot = self._snapshot()
        ending = Ending(
            attempt=self._record.attempt,
            failure=self._failure,
            outputs=self._uploads.finished(),
            details=None if snapshot is None else snapshot.details,
            node_errors=None if self._execution is None else self._execution.node_errors,
            times=self._times(),
        )
        return await self._end.commit(self._reporter.stored, ending)

    def _times(self) -> AttemptTimes:
        graph = {} if self._execution is None else self._execution.graph

        def class_of(node_id: str) -> str | None:
            found = graph.get(node_id, {}).get("class_type")
            return found if isinstance(found, str) else None

        nodes, left_out = self._standby.socket.times.slowest(class_of)
        return AttemptTimes(
            staged_s=self._phases.seconds("staged"),
            executed_s=self._phases.seconds("executed"),
            uploaded_s=self._phases.seconds("uploaded"),
            gpu_idle_s=None if self._gpu_idle_s is None else round(self._gpu_idle_s, 3),
            nodes=nodes,
            nodes_left_out=left_out,
        )


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

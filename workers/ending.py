"""Commits how an attempt ended, or releases its job. None of it needs the engine."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from storage.bucket.records import retry_while_unavailable
from storage.errors import StorageError
from storage.intake.host_paths import HostPaths
from storage.jobs.models import AttemptTimes, ErrorDetail, Output, ProgressDetails
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import StoredJob
from storage.jobs.timers import KeysAhead
from storage.stores import Stores
from workers.comfy.refusals import warnings_of
from workers.errors import OutputFailed, Repeat, WorkerError
from workers.outputs.payload import strict_json
from workers.reporter import ReportPolicy
from workflows.node_errors import bounded

logger = logging.getLogger(__name__)

INTERNAL_ERROR = "internal error; the worker's log has the details"
LAST_WRITE_S = 3.0
"""Seconds that a stopping worker has to commit how its job ended, or to release it."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended, and where its time went. `node_errors` is ComfyUI's, None if it gave no answer."""

    attempt: int
    failure: WorkerError | None
    outputs: tuple[Output, ...]
    details: ProgressDetails | None
    node_errors: Mapping[str, Any] | None
    times: AttemptTimes | None = None

    def applied_to(self, record: JobRecord, now: datetime, paths: HostPaths, max_attempts: int) -> JobRecord:
        """Return the record after the attempt."""
        if self.node_errors is not None:
            errors = paths.hidden_in(bounded(self.node_errors))
            record = record.with_warnings(strict_json(warnings_of(errors, record.warnings)))
        if self.failure is None:
            nodes = self.details.nodes_total if self.details else 0
            return record.complete(
                attempt=self.attempt, now=now, outputs=self.outputs, nodes_total=nodes, times=self.times
            )
        error = error_detail(self.failure, self.attempt, paths)
        if self.failure.repeat is Repeat.AUTOMATIC and record.may_be_repeated(max_attempts):
            return record.requeue(attempt=self.attempt, now=now, fault=error, times=self.times)
        return record.fail(
            attempt=self.attempt,
            now=now,
            error=error,
            outputs=self.outputs,
            details=self.details,
            times=self.times,
        )


class EndCommit:
    """Commits an `Ending` with retries while the bucket is unavailable. `ahead`: keys that are already written."""

    def __init__(self, stores: Stores, paths: HostPaths, policy: ReportPolicy, max_attempts: int) -> None:
        self.ahead: KeysAhead | None = None
        self._stores = stores
        self._paths = paths
        self._policy = policy
        self._max_attempts = max_attempts

    async def write_ahead(self, record: JobRecord) -> None:
        """Write the keys of the job's completion, so that its commit takes one round."""
        with contextlib.suppress(StorageError):  # the commit writes them
            self.ahead = await self._stores.jobs.write_end_ahead(record)

    async def commit(self, newest: StoredJob, ending: Ending) -> StoredJob:
        try:
            stored = await self._committed(newest, partial(self._ended, ending))
        except StorageError:
            raise
        except OutputFailed as error:  # the record would be too large
            ending = replace(ending, failure=ending.failure or error)
            stored = await self._committed(newest, partial(self._ended_short, ending, ending.failure or error))
        except Exception:  # a defect, as of a value that no record can hold, must end the job rather than its worker
            logger.exception("an attempt could not be concluded")
            stored = await self._committed(newest, partial(self._ended_short, ending, WorkerError(INTERNAL_ERROR)))
        await self._settle(stored.record)
        return stored

    async def _committed(self, newest: StoredJob, ended: Callable[[JobRecord], JobRecord]) -> StoredJob:
        return await retry_while_unavailable(lambda: self._stores.jobs.evolve_from(newest, ended, ahead=self.ahead))

    def _ended(self, ending: Ending, record: JobRecord) -> JobRecord:
        """Return the record after the attempt. Raises `OutputFailed` if it is too large.

        It may be called again with a newer one, as after a cancel request.
        """
        now = self._stores.clock.now()
        return self._policy.checked(ending.applied_to(record, now, self._paths, self._max_attempts))

    def _ended_short(self, ending: Ending, failure: WorkerError, record: JobRecord) -> JobRecord:
        """Return the failed record with nothing new of the engine's: only what an earlier write has accepted."""
        error = error_detail(failure, ending.attempt, self._paths)
        return record.fail(attempt=ending.attempt, now=self._stores.clock.now(), error=error, outputs=record.outputs)

    async def _settle(self, record: JobRecord) -> None:
        """Do what follows the end and may fail."""
        if record.status is Status.COMPLETED and record.started_at is not None and record.completed_at is not None:
            seconds = (record.completed_at - record.started_at).total_seconds()
            with contextlib.suppress(StorageError):  # estimates have the run times of other jobs
                await self._stores.runtimes.record(record.tenant, record.workflow_shape, seconds)


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


async def finish_last_write(last_write: Coroutine[Any, Any, StoredJob]) -> StoredJob:
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


def error_detail(failure: WorkerError, attempt: int, paths: HostPaths) -> ErrorDetail:
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

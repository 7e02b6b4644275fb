"""A worker: one engine that runs one job at a time, the best queued job first.

    job A   execute ────────────▶ conclude ──────────▶
    job B        read, stage ····▶ claim, execute ─────────▶ conclude

`serve` runs a permanent local worker, `serve_queue` the jobs of a Modal ticket. While one job executes, the outputs of
earlier ones are uploaded (`Conclusions`) and the next one is prepared (`Lookahead`), so between two jobs the engine
waits for one conditional write. A worker that stops releases its executing job to the queue, where another worker can
claim it at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from storage.errors import AttemptFenced, StorageError
from storage.jobs.record import JobRecord
from storage.jobs.store import StoredJob
from storage.signal import queue_topic
from storage.stores import Stores
from workers.attempt import Attempt, AttemptPolicy, HeadStart
from workers.comfy.host import EngineHost, timed
from workers.comfy.standby import Standby
from workers.conclusions import Conclusions
from workers.disk import WorkerDisk
from workers.ending import LAST_WRITE_S, give_back
from workers.errors import EngineUnavailable, WorkerDiskFull
from workers.lookahead import Lookahead, OverlapPolicy, Prepared
from workers.preparation import Preparation
from workers.publisher import Publisher, WorkerIdentity

logger = logging.getLogger(__name__)

MOST_TIMED_OUT_S = 60.0
"""Timeouts in seconds, in all, of jobs in a row (two or more) that ran into them before their engine is restarted.

The engine may be at fault. Few short timeouts say little about it, and a restart costs more than such jobs.
"""
RETRY_S = 1.0
"""Seconds to wait after the bucket or the engine failed, or while the disk is full."""


class WorkerLoop:
    """`on_ready` is called each time the engine becomes ready, including after a restart."""

    def __init__(
        self,
        identity: WorkerIdentity,
        host: EngineHost,
        stores: Stores,
        policy: AttemptPolicy,
        on_ready: Callable[[], None] = lambda: None,
        overlap: OverlapPolicy | None = None,
    ) -> None:
        self._identity = identity
        self._host = host
        self._stores = stores
        self._policy = policy
        self._overlap = overlap or OverlapPolicy()
        self._disk = WorkerDisk(policy.min_free_bytes)
        self._publisher = Publisher(identity, host, stores)
        self._on_ready = on_ready
        self._executing: JobRecord | None = None
        self._timeouts: list[float] = []
        """Timeouts of the last jobs in a row that ran into them on this engine, in seconds."""
        self._conclusions = Conclusions(self._overlap.concluding)
        self._lookahead = Lookahead(
            identity.pool,
            stores.queue,
            stores.signal,
            self._prepare_ahead,
            look_again_s=self._overlap.look_again_s,
        )
        self._start_phases: dict[str, float] | None = None
        """Durations of the start that the next claimed job waited for; None for later jobs."""

    async def start(self) -> None:
        """Start the engine and publish it. Raises `EngineUnavailable` if it does not become ready."""
        phases: dict[str, float] = {}
        with timed(phases, "total"):
            await self._host.start()
            with timed(phases, "announce"):
                await self._engine_is_ready()
        self._start_phases = {**self._host.start_phases, **phases}
        logger.info("worker started", extra={"phases": self._start_phases})

    async def stop(self) -> None:
        await self._host.stop()

    async def serve(self, stop: asyncio.Event) -> None:
        """Claim and run jobs until `stop` is set; a job that still executes then is released to the queue."""
        # Not anyio's group: it would cancel each await of the release as well.
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._serve_for_ever())
            await stop.wait()
            serving.cancel()

    async def _serve_for_ever(self) -> None:
        try:
            with self._stores.signal.listen(queue_topic(self._identity.pool)) as bell:
                logged = None
                while True:
                    try:
                        has_run = await self._serve_next()
                    except (StorageError, EngineUnavailable, WorkerDiskFull) as error:
                        if str(error) != logged:  # a disk may be full for hours
                            logged = str(error)
                            logger.warning("the worker has to wait: %s", error)
                        await asyncio.sleep(RETRY_S)
                        continue
                    logged = None
                    if not has_run:
                        await bell.wait(self._identity.queue_poll_s)
        finally:
            await self._stop_overlap()

    async def _stop_overlap(self) -> None:
        await asyncio.gather(self._lookahead.close(), self._conclusions.close())

    async def _serve_next(self, *, looks_ahead: bool = True) -> bool:
        """Run the next job and conclude it in the background; return False if no job can be claimed.

        Raises `WorkerDiskFull` before a claim without room for a job.
        """
        await self._free_engine()
        await self._make_room_on_disk()
        # Before the claim, since a claimed job must be able to start at once.
        await self._conclusions.make_room()
        attempt = await self._next_attempt()
        if attempt is None:
            # The keys of past commits are deleted in the background; an idle worker has time to wait for that.
            await self._stores.jobs.settled()
            return False
        if looks_ahead:
            self._lookahead.start(attempt.is_submitted)
        try:
            has_executed = await self._execute(attempt)
        finally:
            await self._lookahead.stop()
        if has_executed:
            self._conclusions.add(self._conclude(attempt))
            await self._replace_suspect_engine(attempt)
        return True

    async def serve_queue(self, goes_on: Callable[[], Awaitable[bool]], *, looks_ahead: bool = True) -> int:
        """Run queued jobs to their ends until none can be claimed, and return their number. Raises `WorkerDiskFull`.

        `goes_on` is awaited before each claim, and may end it by returning False. With `looks_ahead` the next job is
        prepared while one executes.
        """
        try:
            return await self._serve_until_empty(goes_on, looks_ahead)
        finally:
            await self._stop_overlap()

    async def _serve_until_empty(self, goes_on: Callable[[], Awaitable[bool]], looks_ahead: bool) -> int:  # noqa: FBT001  always given
        served = 0
        try:
            await self._conclusions.make_room()
            while await goes_on():
                if await self._serve_next(looks_ahead=looks_ahead):
                    served += 1
                    await self._conclusions.make_room()
                # A job that arrives while the last outputs are uploaded need not wait for them.
                elif not await self._conclusions.wait(self._identity.queue_poll_s):
                    break
            await self._lookahead.close()
        except (StorageError, EngineUnavailable, WorkerDiskFull):
            await self._conclusions.all()  # they need no engine, and the bucket may be back
            raise
        await self._conclusions.all()
        # The container may end right after this call, so background deletions are awaited.
        await self._stores.jobs.settled()
        return served

    async def _make_room_on_disk(self) -> None:
        """Raise `WorkerDiskFull` if the disk has no room for a job without the files that earlier jobs left on it."""
        files = self._host.engine.files
        if await self._disk.shortage(files) is None:
            return
        # Outputs stay in the engine's folders until the next claim, which would wait for their space for ever.
        await self._lookahead.close()
        await self._conclusions.all()
        await files.clean()
        if (shortage := await self._disk.shortage(files)) is not None:
            raise shortage

    async def _free_engine(self) -> None:
        """Make the engine ready for a job. Called while none uses it or its folders."""
        if not self._host.is_alive():
            logger.warning("the engine is gone; its last words: %s", " | ".join(self._host.log.tail(5)))
            await self._restart_engine()
        await self._publisher.keep_announced()

    # Claims.

    async def _next_attempt(self) -> Attempt | None:
        """Claim the prepared job, or else the best one."""
        prepared = await self._lookahead.take()
        if prepared is not None:
            attempt = await self._claim_prepared(prepared)
            if attempt is not None:
                return attempt
        if not self._host.isolation.is_in_force:
            await self._conclusions.all()  # the graph of whatever job is claimed could read the others' outputs
        return self._attempt_of(await self._claimed(self._claim()))

    async def _claim_prepared(self, prepared: Prepared) -> Attempt | None:
        candidate, preparation = prepared.candidate, prepared.preparation
        standby = attempt = None
        try:
            if not self._is_harmless(candidate.record):
                await self._conclusions.all()
            if not preparation.has_failed_by_chance:
                # While the job is claimed: it saves the time in which its engine would wait.
                standby = Standby(self._host.engine, self._policy.execution)
                taking = self._stores.queue.take(candidate, self._identity.name, self._runtime())
                attempt = self._attempt_of(await self._claimed(taking), HeadStart(preparation, standby))
        finally:
            if attempt is None:
                self._stores.queue.discard(candidate)
                await preparation.close()
                if standby is not None:
                    await standby.close()
        return attempt

    def _runtime(self) -> Any:
        return self._publisher.runtime.model_copy(update={"start": self._start_phases})

    def _claim(self) -> Coroutine[Any, Any, StoredJob | None]:
        return self._stores.queue.claim(self._identity.pool, self._identity.name, self._runtime())

    async def _claimed(self, claim: Coroutine[Any, Any, StoredJob | None]) -> StoredJob | None:
        """Await a claim. A worker that is stopped meanwhile releases the job."""
        claiming = asyncio.create_task(claim)
        try:
            # A cancelled claim may have committed; it runs to its end so that the job can be released.
            claimed = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await asyncio.wait({claiming}, timeout=LAST_WRITE_S)
            claiming.cancel()
            (result,) = await asyncio.gather(claiming, return_exceptions=True)
            if isinstance(result, StoredJob):
                await give_back(self._stores, result)
            raise
        if claimed is not None:
            self._start_phases = None  # later jobs did not wait for this start
        return claimed

    def _attempt_of(self, claimed: StoredJob | None, head_start: HeadStart | None = None) -> Attempt | None:
        if claimed is None:
            return None
        logger.info("job claimed", extra=_about(claimed.record))
        published = self._publisher
        return Attempt(
            claimed,
            self._stores,
            self._host,
            published.catalogue,
            self._policy,
            head_start=head_start,
            engine_time=published.engine_time,
        )

    def _prepare_ahead(self, stored: StoredJob) -> Preparation:
        files = self._host.engine.files
        preparation = Preparation(stored, self._stores, files, self._publisher.catalogue, self._policy.preparation)
        # Without isolation the graph that runs now could read the next job's files.
        is_safe = self._executing is None or self._is_harmless(self._executing)
        if is_safe and self._overlap.allows_files(stored.record, files.free_bytes()):
            preparation.begin_files()
        return preparation

    def _is_harmless(self, record: JobRecord) -> bool:
        """Whether the job's graph cannot reach files of other jobs, or is not a stranger's."""
        return self._host.isolation.is_in_force or record.graphs == "own"

    # Jobs.

    async def _execute(self, attempt: Attempt) -> bool:
        """Run the job until it needs the engine no longer; return False if it was lost to another attempt."""
        self._executing = attempt.claimed.record
        try:
            await attempt.execute()
        except AttemptFenced as fenced:
            logger.warning("job lost: %s", fenced, extra=_about(attempt.claimed.record))
            await self._restart_engine()  # the prompt of the lost attempt may still run
            return False
        finally:
            self._executing = None
        self._note_disk(attempt)
        return True

    async def _conclude(self, attempt: Attempt) -> StoredJob:
        try:
            return await attempt.conclude()
        except AttemptFenced as fenced:
            logger.warning("job lost: %s", fenced, extra=_about(attempt.claimed.record))
            return attempt.claimed
        finally:
            self._note_disk(attempt)

    def _note_disk(self, attempt: Attempt) -> None:
        if attempt.met_full_disk:
            self._disk.note_refusal()

    async def _replace_suspect_engine(self, attempt: Attempt) -> None:
        self._timeouts = [*self._timeouts, attempt.timed_out_s] if attempt.timed_out_s else []
        has_failed_jobs = len(self._timeouts) > 1 and sum(self._timeouts) >= MOST_TIMED_OUT_S
        if attempt.engine_suspect or has_failed_jobs:
            await self._restart_engine()

    async def _restart_engine(self) -> None:
        self._timeouts = []
        self._host.log.close_section()
        await self._host.restart()
        await self._engine_is_ready()

    async def _engine_is_ready(self) -> None:
        await self._publisher.announce()
        self._on_ready()


def _about(record: JobRecord) -> dict[str, Any]:
    return {"job_id": record.job_id, "tenant": record.tenant, "attempt": record.attempt}

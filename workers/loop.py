"""A worker: one engine, one job at a time, the best queued job next.

`serve` is a permanent local worker; `serve_one` is what a Modal ticket pays for. Stopping gives the running job back
to the queue: another worker takes it at once.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from storage.errors import AttemptFenced, StorageError
from storage.jobs.queue import JobQueue
from storage.jobs.store import StoredJob
from storage.signal import queue_topic
from workers.comfy.host import EngineHost
from workers.errors import EngineUnavailable
from workers.phases import timed
from workers.publisher import Publisher, WorkerIdentity
from workers.runner import LAST_WRITE_S, JobRunner, RunnerPolicy, RunnerStores, give_back

logger = logging.getLogger(__name__)

RETRY_S = 1.0
"""After the bucket or the engine failed: once a second is often enough."""


class WorkerLoop:
    """`on_ready` is called whenever the engine became ready, also after a restart."""

    def __init__(
        self,
        identity: WorkerIdentity,
        host: EngineHost,
        queue: JobQueue,
        publisher: Publisher,
        stores: RunnerStores,
        policy: RunnerPolicy,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._identity = identity
        self._host = host
        self._queue = queue
        self._publisher = publisher
        self._stores = stores
        self._policy = policy
        self._on_ready = on_ready
        self._start_phases: dict[str, float] | None = None
        """Of the start that the next job has waited for."""

    async def start(self) -> None:
        """`EngineUnavailable` if the engine does not get ready."""
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
        """Claim and run until `stop` is set; the job that then runs goes back to the queue."""
        serving = asyncio.create_task(self._serve_for_ever())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    async def serve_one(self) -> StoredJob | None:
        """Run the best queued job; None if there is none (another worker was quicker)."""
        await self._see_to_engine()
        claimed = await self._claim()
        ran = None if claimed is None else await self._run(claimed)
        await self._publisher.keep_announced()
        await self._stores.jobs.settled()
        return ran

    async def _claim(self) -> StoredJob | None:
        """A worker that is stopped while it claims does not keep what it got."""
        runtime = self._publisher.runtime.model_copy(update={"start": self._start_phases})
        claiming = asyncio.create_task(self._queue.claim(self._identity.pool, self._identity.name, runtime))
        try:
            claimed = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await self._give_back(claiming)
            raise
        if claimed is not None:
            self._start_phases = None
        return claimed

    async def _give_back(self, claiming: asyncio.Task[StoredJob | None]) -> None:
        await asyncio.wait({claiming}, timeout=LAST_WRITE_S)
        claiming.cancel()
        (claimed,) = await asyncio.gather(claiming, return_exceptions=True)
        if isinstance(claimed, StoredJob):
            await give_back(self._stores.jobs, self._stores.clock, claimed)

    async def _serve_for_ever(self) -> None:
        with self._stores.signal.listen(queue_topic(self._identity.pool)) as bell:
            while True:
                try:
                    ran = await self.serve_one()
                except (StorageError, EngineUnavailable) as error:
                    logger.warning("the worker has to wait: %s", error)
                    await asyncio.sleep(RETRY_S)
                    continue
                if ran is None:
                    await bell.wait(self._identity.queue_poll_s)

    async def _run(self, claimed: StoredJob) -> StoredJob | None:
        record = claimed.record
        about = {"job_id": record.job_id, "tenant": record.tenant, "attempt": record.attempt}
        logger.info("job claimed", extra=about)
        host = self._host
        runner = JobRunner(self._stores, host.engine, self._publisher.catalogue, self._policy, host.log, host.paths)
        try:
            result = await runner.run(claimed)
        except AttemptFenced as fenced:
            logger.warning("job lost: %s", fenced, extra=about)
            await self._restart_engine()
            return claimed
        ended = result.stored.record
        logger.info("job %s", ended.status, extra=about | {"outputs": len(ended.outputs), "error": ended.error})
        if result.engine_suspect:
            await self._restart_engine()
        return result.stored

    async def _see_to_engine(self) -> None:
        if not self._host.is_alive():
            logger.warning("the engine is gone; its last words: %s", " | ".join(self._host.log.tail(5)))
            await self._restart_engine()

    async def _restart_engine(self) -> None:
        await self._host.restart()
        await self._engine_is_ready()

    async def _engine_is_ready(self) -> None:
        await self._publisher.announce()
        self._on_ready()

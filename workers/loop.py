"""A worker: one engine that runs one job at a time, the best queued job first.

`serve` runs a permanent local worker; `serve_one` runs the single job of a Modal ticket. A job's run is an `Attempt`. A
worker that stops releases its running job to the queue, where another worker can claim it at once.
"""

import asyncio
import logging
from collections.abc import Callable

from storage.errors import AttemptFenced, StorageError
from storage.jobs.store import StoredJob
from storage.signal import queue_topic
from storage.stores import Stores
from workers.attempt import LAST_WRITE_S, Attempt, AttemptPolicy, give_back
from workers.comfy.host import EngineHost, timed
from workers.errors import EngineUnavailable
from workers.publisher import Publisher, WorkerIdentity

logger = logging.getLogger(__name__)

RETRY_S = 1.0
"""Seconds to wait after the bucket or the engine failed."""


class WorkerLoop:
    """`on_ready` is called each time the engine becomes ready, including after a restart."""

    def __init__(
        self,
        identity: WorkerIdentity,
        host: EngineHost,
        stores: Stores,
        policy: AttemptPolicy,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._identity = identity
        self._host = host
        self._stores = stores
        self._policy = policy
        self._publisher = Publisher(identity, host, stores)
        self._on_ready = on_ready
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
        """Claim and run jobs until `stop` is set; a job that still runs then is released to the queue."""
        # Not anyio's group: it would cancel each await of the release as well.
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._serve_for_ever())
            await stop.wait()
            serving.cancel()

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

    async def serve_one(self) -> StoredJob | None:
        """Run the best queued job; return None if no job can be claimed."""
        if not self._host.is_alive():
            logger.warning("the engine is gone; its last words: %s", " | ".join(self._host.log.tail(5)))
            await self._restart_engine()
        claimed = await self._claim()
        ran = None if claimed is None else await self._run(claimed)
        await self._publisher.keep_announced()
        # A container may end right after this call, so background deletions are awaited.
        await self._stores.jobs.settled()
        return ran

    async def _claim(self) -> StoredJob | None:
        """Claim the next job. A worker that is stopped during the claim releases the job."""
        runtime = self._publisher.runtime.model_copy(update={"start": self._start_phases})
        claiming = asyncio.create_task(self._stores.queue.claim(self._identity.pool, self._identity.name, runtime))
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

    async def _run(self, claimed: StoredJob) -> StoredJob:
        record = claimed.record
        about = {"job_id": record.job_id, "tenant": record.tenant, "attempt": record.attempt}
        logger.info("job claimed", extra=about)
        attempt = Attempt(claimed, self._stores, self._host, self._publisher.catalogue, self._policy)
        try:
            stored = await attempt.run()
        except AttemptFenced as fenced:
            logger.warning("job lost: %s", fenced, extra=about)
            await self._restart_engine()  # the prompt of the lost attempt may still run
            return claimed
        if attempt.engine_suspect:  # after the commit, so that the client does not wait for the restart
            await self._restart_engine()
        return stored

    async def _restart_engine(self) -> None:
        await self._host.restart()
        await self._engine_is_ready()

    async def _engine_is_ready(self) -> None:
        await self._publisher.announce()
        self._on_ready()

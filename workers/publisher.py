"""Publishes a worker's engine information, for the checks of submissions, and its machine.

It is published when the engine becomes ready and again at intervals, since it is valid for a limited time.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from storage.concurrency import both
from storage.errors import EngineInfoTooLarge, StorageError
from storage.jobs.models import Runtime
from storage.pools.engine_info import FILES_LIFE
from storage.pools.worker_facts import WorkerFacts
from storage.stores import Stores
from workers.comfy.host import EngineHost
from workers.comfy.system import SystemFacts, gpu_name, system_facts
from workers.engine_time import EngineTime
from workers.errors import EngineUnavailable
from workflows.catalogue import Catalogue

logger = logging.getLogger(__name__)

PUBLISH_USE_EVERY = timedelta(minutes=1)
"""The interval also of looking whether the published object is still there and can be read."""
REPUBLISH_EVERY = FILES_LIFE / 2
NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """`name` is used in leases and logs. `prices` are in USD per second, by Modal's or the driver's name of the GPU."""

    name: str
    pool: str
    queue_poll_s: float = 1.0
    prices: Mapping[str, float] = field(default_factory=dict)


class Publisher:
    """`catalogue` and `runtime` are the engine's, once it was published."""

    def __init__(self, identity: WorkerIdentity, host: EngineHost, stores: Stores) -> None:
        self.catalogue = Catalogue.absent()
        self.runtime = Runtime(worker=identity.name)
        self._identity = identity
        self._host = host
        self._stores = stores
        self._started_at = stores.clock.now()
        self._published_at = self._use_published_at = NEVER
        self._engine_time: EngineTime | None = None
        self._is_too_large = False

    @property
    def engine_time(self) -> EngineTime:
        """The engine's times since it was first ready."""
        assert self._engine_time is not None  # noqa: S101  `announce` comes first
        return self._engine_time

    async def announce(self) -> None:
        """Publish the engine. Raises `EngineUnavailable`; a failure of the bucket is only logged."""
        # Loaders list the input folder, so the last job's files would count as the engine's own.
        await self._host.engine.files.clean()
        info = await self._host.engine.declarations()
        system = system_facts(await self._host.engine.system_stats())
        facts = self._facts(system)
        # Set before the publication, which may fail: the worker itself needs them.
        self.catalogue, self.runtime = Catalogue(info), self._runtime(facts)
        self._engine_time = self._engine_time or EngineTime()
        pool = self._identity.pool
        try:
            await self._stores.worker_facts.publish(pool, facts)
            await self._stores.engine_info.publish(pool, info, comfyui_version=system.comfyui_version)
            self._published_at, self._is_too_large = self._stores.clock.now(), False
        except EngineInfoTooLarge as error:
            # Counts as published: a second try would cost as much and fail as well.
            self._published_at, self._is_too_large = self._stores.clock.now(), True
            logger.warning("graphs are checked for their structure alone: %s", error)
        except StorageError as error:
            logger.warning("what the engine can do was not published: %s", error)

    async def keep_announced(self) -> None:
        """Publish again if it is due or damaged; failures of the engine and the bucket are not raised."""
        now, is_damaged = self._stores.clock.now(), False
        if now - self._use_published_at >= PUBLISH_USE_EVERY:
            self._use_published_at = now
            _, is_damaged = await both(self._publish_use(), self._is_damaged(now))
        if not is_damaged and now - self._published_at < REPUBLISH_EVERY:
            return
        try:
            await self.announce()
        except EngineUnavailable as error:
            logger.warning("what the engine can do is not known: %s", error)

    async def _is_damaged(self, now: datetime) -> bool:
        """Whether what was published some time ago can no longer be read."""
        if self._is_too_large or now - self._published_at < PUBLISH_USE_EVERY:
            return False
        try:
            return not await self._stores.engine_info.is_published(self._identity.pool)
        except StorageError as error:
            logger.debug("whether the engine is still published is not known: %s", error)
            return False

    async def _publish_use(self) -> None:
        time = self.engine_time
        try:
            await self._stores.engine_use.publish(
                self._identity.pool, self._identity.name, computed_s=time.computed_s, idle_s=time.idle_s
            )
        except StorageError as error:
            logger.debug("how long the engine computed was not published: %s", error)

    def _facts(self, system: SystemFacts) -> WorkerFacts:
        chosen = self._host.attention
        attention = chosen.model_copy(update={"reason": self._host.paths.hidden(chosen.reason)})
        return WorkerFacts(
            worker=self._identity.name,
            started_at=self._started_at,
            engine=system.engine,
            comfyui_version=system.comfyui_version,
            python_version=system.python_version,
            torch_version=system.torch_version,
            gpu=system.gpu or attention.gpu,
            gpu_memory_bytes=system.gpu_memory_bytes or attention.gpu_memory_bytes,
            attention=attention,
            isolation=self._host.paths.hidden(str(self._host.isolation)),
        )

    def _runtime(self, facts: WorkerFacts) -> Runtime:
        gpu = None if facts.gpu is None else gpu_name(facts.gpu)
        prices = self._identity.prices
        return Runtime(
            worker=facts.worker,
            gpu=gpu,
            attention=facts.attention.backend,
            engine_version=facts.comfyui_version,
            usd_per_s=None if facts.gpu is None or gpu is None else prices.get(facts.gpu, prices.get(gpu)),
        )

"""The adapters of Modal: the ports `Launcher` and `Signal`, the GPU pools, the API's URL.

The pools of a deployment are `default`, with the GPUs of the deployed app, and the additional pools. All of them use
one Modal class. An additional pool is a variant of it with another GPU; its containers serve only that pool's queue.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import modal
from cachetools import TTLCache

from infra.on_modal import API_FUNCTION, APP_NAME, DELIVER_FUNCTION, WORKER_CLASS
from infra.settings import Settings
from storage.keys import DEFAULT_POOL
from storage.pools.engine_starts import PausingLauncher
from storage.signal import OUTBOX_TOPIC, MemorySignal
from storage.stores import Stores

logger = logging.getLogger(__name__)

SCALE_LIFE_S = 60.0
"""How long a pool's limit of containers is remembered, which `comfyui-modal scale` may change."""


class UnknownPool(LookupError):
    """The deployment has no pool of this name, or no longer has one."""


class ModalPools:
    """Looks up the worker class of each pool. `gpus` maps each additional pool to its GPU."""

    def __init__(self, gpus: Mapping[str, str], *, app_name: str = APP_NAME, environment: str | None = None) -> None:
        self._gpus = gpus
        self._class = modal.Cls.from_name(app_name, WORKER_CLASS, environment_name=environment)
        self._runs: dict[str, Any] = {}

    def run(self, pool: str) -> Any:
        """Return the method whose calls are this pool's tickets. Raise `UnknownPool`."""
        if pool not in self._runs:
            self._runs[pool] = self._worker(pool).run
        return self._runs[pool]

    def _worker(self, pool: str) -> Any:
        if pool == DEFAULT_POOL:
            return self._class()
        if pool not in self._gpus:
            known = ", ".join([DEFAULT_POOL, *self._gpus])
            raise UnknownPool(f"no pool {pool!r}: this deployment has {known}")
        # Modal scales each variant separately, so that the pools have containers of their own.
        return self._class.with_options(gpu=self._gpus[pool])(pool=pool)


class ModalLauncher:
    """A ticket is a spawned call of `ComfyWorker.run`. Modal scales a pool's containers by the waiting calls."""

    def __init__(self, pools: ModalPools) -> None:
        self._pools = pools
        self._limits: TTLCache[str, int | None] = TTLCache(64, SCALE_LIFE_S)

    async def spawn(self, pool: str) -> str | None:
        call = await self._pools.run(pool).spawn.aio()
        ticket: str = call.object_id
        return ticket

    async def waiting(self, pool: str) -> int | None:
        stats = await self._pools.run(pool).get_current_stats.aio()
        backlog: int = stats.backlog
        return backlog

    async def most_containers(self, pool: str) -> int | None:
        if pool not in self._limits:
            settings = await self._pools.run(pool).autoscaler.settings.aio()
            self._limits[pool] = settings.max_containers
        return self._limits[pool]

    async def cancel(self, ticket: str) -> None:
        try:
            call = await modal.FunctionCall.from_id.aio(ticket)
            await call.cancel.aio()
        except (modal.exception.NotFoundError, modal.exception.OutputExpiredError):
            return  # the call has finished; Modal forgets calls after seven days


def modal_launcher(settings: Settings, stores: Stores) -> PausingLauncher:
    return PausingLauncher(ModalLauncher(ModalPools(settings.gpu_pools)), stores.engine_starts)


class ModalSignal(MemorySignal):
    """A signal within this container that also spawns the deliverer, with at most one call in flight.

    Other containers poll. A call that is lost costs time only: the schedule of `deliver` finds every due event.
    """

    def __init__(self, app_name: str = APP_NAME) -> None:
        super().__init__()
        self._deliver = modal.Function.from_name(app_name, DELIVER_FUNCTION)
        self._calls: set[asyncio.Task[None]] = set()

    def ring(self, topic: str) -> None:
        super().ring(topic)
        if topic == OUTBOX_TOPIC and not self._calls:
            call = asyncio.get_running_loop().create_task(self._call())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self) -> None:
        try:
            await self._deliver.spawn.aio()
        except Exception as error:  # Modal raises many types; the schedule delivers the event anyway
            logger.info("the deliverer could not be called: %s", error)


def with_public_url(settings: Settings) -> Settings:
    """Set `public_url`, from which links in events are made: the deliverer has no request with a host."""
    return settings if settings.public_url else settings.model_copy(update={"public_url": _api_url()})


def _api_url() -> str | None:
    try:
        return modal.Function.from_name(APP_NAME, API_FUNCTION).get_web_url()
    except Exception:  # Modal raises many types; relative links are better than no event
        logger.warning("Modal does not report the API's URL; set COMFYUI_MODAL_PUBLIC_URL", exc_info=True)
        return None

"""The `Launcher` of Modal: a ticket is a spawned call of `ComfyWorker.run`."""

import modal

from infra.on_modal.pools import ModalPools
from infra.settings import Settings
from storage.pools.engine_starts import PausingLauncher
from storage.stores import Stores


class ModalLauncher:
    """Spawns calls. Modal scales a pool's containers by the number of waiting calls."""

    def __init__(self, pools: ModalPools) -> None:
        self._pools = pools

    async def spawn(self, pool: str) -> str | None:
        call = await self._pools.run(pool).spawn.aio()
        ticket: str = call.object_id
        return ticket

    async def waiting(self, pool: str) -> int | None:
        stats = await self._pools.run(pool).get_current_stats.aio()
        backlog: int = stats.backlog
        return backlog

    async def cancel(self, ticket: str) -> None:
        try:
            call = await modal.FunctionCall.from_id.aio(ticket)
            await call.cancel.aio()
        except (modal.exception.NotFoundError, modal.exception.OutputExpiredError):
            return  # the call has finished; Modal forgets calls after seven days


def modal_launcher(settings: Settings, stores: Stores) -> PausingLauncher:
    return PausingLauncher(ModalLauncher(ModalPools(settings.gpu_pools)), stores.engine_starts)

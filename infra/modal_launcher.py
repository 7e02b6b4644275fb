"""`Launcher` on Modal: a ticket is a spawned call of `ComfyWorker.run`."""

import modal

from infra.modal_names import APP_NAME, WORKER_CLASS


class ModalLauncher:
    """Looks the worker class up by name once; Modal scales its containers to the calls that wait."""

    def __init__(self, app_name: str = APP_NAME) -> None:
        self._worker = modal.Cls.from_name(app_name, WORKER_CLASS)

    async def spawn(self, pool: str) -> str | None:
        call = await self._worker().run.spawn.aio()
        ticket: str = call.object_id
        return ticket

    async def waiting(self, pool: str) -> int | None:
        stats = await self._worker().run.get_current_stats.aio()
        backlog: int = stats.backlog
        return backlog

    async def cancel(self, ticket: str) -> None:
        try:
            call = await modal.FunctionCall.from_id.aio(ticket)
            await call.cancel.aio()
        except modal.exception.NotFoundError:
            return  # finished and forgotten

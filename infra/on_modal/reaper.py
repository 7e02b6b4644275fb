"""Entry point of the Modal function that runs the reaper on a schedule."""

import asyncio

from infra.compose.reaper import reaper
from infra.compose.stores import open_stores
from infra.logs import configure_logging
from infra.on_modal.launcher import modal_launcher
from infra.on_modal.signal import ModalSignal
from infra.settings import Settings


def sweep() -> None:
    """Run one sweep of the reaper."""
    settings = Settings()
    configure_logging("reaper", settings.log_level, settings.secret_values())

    async def once() -> None:
        async with open_stores(settings, ModalSignal()) as stores:
            await reaper(settings, stores, modal_launcher(settings, stores)).sweep()

    asyncio.run(once())

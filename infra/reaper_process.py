"""The local reaper: `python -m infra.reaper_process`, started and watched by `comfyui-modal up`."""

import asyncio
import contextlib
import logging
import os

from infra.compose import open_stores
from infra.local.lifeline import stop_with_parent
from infra.local.presence import Presence, announce
from infra.local.signal import open_local_signal
from infra.logs import configure_logging
from infra.settings import Settings
from storage.errors import StorageError
from storage.launcher import MemoryLauncher
from workers.reaper import Reaper

logger = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    stop = await stop_with_parent()
    async with open_local_signal(settings) as signal, open_stores(settings, signal) as stores:
        reaper = Reaper(stores.jobs, stores.objects, MemoryLauncher(), stores.clock, max_attempts=settings.max_attempts)
        if settings.presence is not None:
            announce(settings.presence, Presence(pid=os.getpid()))
        while not stop.is_set():
            try:
                await reaper.sweep()
            except StorageError as error:
                logger.warning("the sweep failed, the next one will do its work: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.reap_interval_s):
                    await stop.wait()


def main() -> None:
    settings = Settings()
    configure_logging(settings.process_name, settings.log_level)
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()

"""The entry point of the local reaper: `infra.local.reaper_process`, supervised by `comfyui-modal up`."""

import asyncio
import contextlib
import sys

from infra.compose.reaper import reaper
from infra.local.parent_watch import stop_with_parent
from infra.local.process import local_stores, run, say_ready
from infra.settings import Settings
from storage.launcher import NoLauncher


async def serve(settings: Settings) -> None:
    stop = await stop_with_parent()
    async with local_stores(settings) as stores:
        sweeper = reaper(settings, stores, NoLauncher())
        say_ready(settings)
        while not stop.is_set():
            await sweeper.sweep()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.reap_interval_s):
                    await stop.wait()


if __name__ == "__main__":
    sys.exit(run(serve))

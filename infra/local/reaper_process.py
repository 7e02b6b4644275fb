"""The local reaper: `python -m infra.local.reaper_process`, started and watched by `comfyui-modal up`."""

import asyncio
import contextlib

from infra.compose.reaper import reaper
from infra.local.lifeline import stop_with_parent
from infra.local.process import begin, local_stores, say_ready
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
    asyncio.run(serve(begin()))

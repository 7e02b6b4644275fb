"""The local reaper: `python -m infra.local.reaper_process`, started and watched by `comfyui-modal up`."""

import asyncio
import contextlib
import os

from infra.compose import open_stores, reaper
from infra.local.lifeline import stop_with_parent
from infra.local.presence import Presence, announce
from infra.local.signal import open_local_signal
from infra.logs import configure_logging
from infra.secrecy import keep_secrets
from infra.settings import Settings
from storage.launcher import NoLauncher


async def serve(settings: Settings) -> None:
    stop = await stop_with_parent()
    async with open_local_signal(settings) as signal, open_stores(settings, signal) as stores:
        sweeper = reaper(settings, stores, NoLauncher())
        if settings.presence is not None:
            announce(settings.presence, Presence(pid=os.getpid()))
        while not stop.is_set():
            await sweeper.sweep()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.reap_interval_s):
                    await stop.wait()


def main() -> None:
    settings = Settings()
    configure_logging(settings.process_name, settings.log_level, settings.secret_values())
    keep_secrets()
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()

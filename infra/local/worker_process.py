"""A local worker: `python -m infra.local.worker_process`, started and watched by `comfyui-modal up`."""

import asyncio
import os
import sys

from infra.compose import engine_environment, engine_host, open_stores, warm, worker_loop
from infra.local.lifeline import stop_with_parent
from infra.local.presence import Presence, announce
from infra.local.signal import open_local_signal
from infra.logs import configure_logging
from infra.secrecy import keep_secrets
from infra.settings import Settings
from workers.comfy.host import EngineHost
from workers.errors import EngineUnavailable


async def serve(settings: Settings) -> int:
    stop = await stop_with_parent()
    async with open_local_signal(settings) as signal, open_stores(settings, signal) as stores:
        host = warm(settings, engine_host(settings, engine_environment()))
        worker = worker_loop(settings, stores, host, on_ready=lambda: _announce(settings, host))
        try:
            await worker.start()
            await worker.serve(stop)
        except EngineUnavailable as error:
            sys.stderr.write(f"{error}\n")
            return 1
        finally:
            await worker.stop()
    return 0


def _announce(settings: Settings, host: EngineHost) -> None:
    if settings.presence is not None:
        announce(settings.presence, Presence(pid=os.getpid(), engine_url=host.url, engine_pid=host.pid))


def main() -> int:
    settings = Settings()
    configure_logging(settings.process_name, settings.log_level, settings.secret_values())
    keep_secrets()
    return asyncio.run(serve(settings))


if __name__ == "__main__":
    sys.exit(main())

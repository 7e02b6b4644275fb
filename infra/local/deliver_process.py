"""The local deliverer: `python -m infra.local.deliver_process`, started and watched by `comfyui-modal up`."""

import asyncio
import os

from infra.compose import dispatcher, open_stores, webhook_transport
from infra.local.lifeline import stop_with_parent
from infra.local.presence import Presence, announce
from infra.local.signal import open_local_signal
from infra.logs import configure_logging
from infra.secrecy import keep_secrets
from infra.settings import Settings


async def serve(settings: Settings) -> None:
    stop = await stop_with_parent()
    async with open_local_signal(settings) as signal, open_stores(settings, signal) as stores:
        transport = webhook_transport(settings)
        if settings.presence is not None:
            announce(settings.presence, Presence(pid=os.getpid()))
        try:
            await dispatcher(settings, stores, transport).serve(stop)
        finally:
            await transport.close()


def main() -> None:
    settings = Settings()
    configure_logging(settings.process_name, settings.log_level, settings.secret_values())
    keep_secrets()
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()

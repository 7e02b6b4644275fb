"""The entry point of the local deliverer: `infra.local.deliver_process`, supervised by `comfyui-modal up`."""

import sys

from infra.compose.deliverer import dispatcher, webhook_transport
from infra.local.parent_watch import stop_with_parent
from infra.local.process import local_stores, run, say_ready
from infra.settings import Settings


async def serve(settings: Settings) -> None:
    stop = await stop_with_parent()
    async with local_stores(settings) as stores:
        deliverer = dispatcher(settings, stores, webhook_transport(settings, stores))
        say_ready(settings)
        await deliverer.serve(stop)


if __name__ == "__main__":
    sys.exit(run(serve))

"""Entry point of the Modal function that delivers webhooks."""

import asyncio

from infra.compose.deliverer import dispatcher, webhook_transport
from infra.compose.stores import open_stores
from infra.logs import configure_logging
from infra.on_modal.url import with_public_url
from infra.settings import Settings
from storage.signal import MemorySignal


def deliver_due() -> None:
    """Deliver every event that is due now."""
    settings = with_public_url(Settings())
    configure_logging("deliverer", settings.log_level, settings.secret_values())

    async def once() -> None:
        async with open_stores(settings, MemorySignal()) as stores:
            await dispatcher(settings, stores, webhook_transport(settings, stores)).sweep()

    asyncio.run(once())

"""The `Signal` of Modal: immediate within a container, and a call of `deliver` for a due event. The rest is polled.

A call is only a hint: the schedule of `deliver` finds every event that a lost call would have announced.
"""

import asyncio
import logging

import modal

from infra.on_modal.names import APP_NAME, DELIVER_FUNCTION
from storage.signal import OUTBOX_TOPIC, MemorySignal

logger = logging.getLogger(__name__)


class ModalSignal(MemorySignal):
    """A signal within this container that also spawns the deliverer, with at most one call in flight."""

    def __init__(self, app_name: str = APP_NAME) -> None:
        super().__init__()
        self._deliver = modal.Function.from_name(app_name, DELIVER_FUNCTION)
        self._calls: set[asyncio.Task[None]] = set()

    def ring(self, topic: str) -> None:
        super().ring(topic)
        if topic == OUTBOX_TOPIC and not self._calls:
            call = asyncio.get_running_loop().create_task(self._call())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self) -> None:
        try:
            await self._deliver.spawn.aio()
        except Exception as error:  # Modal raises many types; the schedule delivers the event anyway
            logger.info("the deliverer could not be called: %s", error)

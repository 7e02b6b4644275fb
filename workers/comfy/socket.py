"""`PromptSocket`: reads ComfyUI's WebSocket for one prompt while the inbox has room, and reconnects."""

import asyncio
import logging

from workers.comfy.engine import ComfyEngine
from workers.comfy.history import ExecutionPolicy
from workers.comfy.inbox import Inbox
from workers.comfy.node_times import NodeTimes
from workers.errors import EngineUnavailable

logger = logging.getLogger(__name__)


class PromptSocket:
    """Connects at once, before its prompt is submitted, because ComfyUI replays nothing. `close` ends it.

    `has_lost_messages` is set when a connection ends; the reader resets it.
    """

    def __init__(self, engine: ComfyEngine, client_id: str, policy: ExecutionPolicy) -> None:
        self.client_id = client_id
        self.inbox = Inbox()
        self.times = NodeTimes()
        self.has_lost_messages = False
        self._engine = engine
        self._policy = policy
        self._connected = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    @property
    def is_connected(self) -> bool:
        return self._connected.is_set()

    async def connected(self) -> None:
        """Wait for the first connection."""
        await self._connected.wait()

    async def close(self) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        """Read the socket into the inbox, and reconnect with backoff."""
        delay_s = self._policy.reconnect_s
        while True:
            try:
                # The old socket is closed first: two sockets of one client id silence each other.
                async with self._engine.connect(self.client_id) as messages:
                    self._connected.set()
                    delay_s = self._policy.reconnect_s
                    async for message, weight in messages:
                        self.times.note(message, asyncio.get_running_loop().time())
                        self.inbox.put(message, weight)
                        await self.inbox.room()
            except EngineUnavailable as error:
                logger.debug("%s", error)
            # Messages may have been lost with the socket, so history is polled at once.
            self._connected.clear()
            self.has_lost_messages = True
            self.inbox.wake()
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, 8 * self._policy.reconnect_s)

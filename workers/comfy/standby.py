"""`Standby`: what an engine needs before a prompt and can do while the prompt's job is still being claimed."""

import asyncio
import uuid

from workers.comfy.engine import ComfyEngine
from workers.comfy.history import ExecutionPolicy
from workers.comfy.socket import PromptSocket


class Standby:
    """Empties the engine's folders and opens the prompt's socket. Begins at once, so no job may use the engine."""

    def __init__(self, engine: ComfyEngine, policy: ExecutionPolicy) -> None:
        self.socket = PromptSocket(engine, str(uuid.uuid4()), policy)
        self._cleaning = asyncio.create_task(engine.files.clean())

    async def cleaned(self) -> None:
        """Wait until the folders are empty. Raises `EngineUnavailable`."""
        await asyncio.shield(self._cleaning)

    async def close(self) -> None:
        await self.socket.close()
        await asyncio.gather(self._cleaning, return_exceptions=True)

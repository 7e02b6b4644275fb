"""Messages between the socket, which must never wait, and a consumer that may be busy uploading.

What a newer message supersedes is dropped while it waits: progress snapshots (20 KB each in a 200-node graph) and
JPEG previews. PNG frames are kept: SaveImageWebsocket sends its results by them.
"""

import asyncio
from collections import deque

from workflows.messages import Message, Preview, Progress, ProgressState


class Inbox:
    def __init__(self) -> None:
        self._waiting: deque[Message] = deque()
        self._arrived = asyncio.Event()

    def put(self, message: Message) -> None:
        if self._waiting and _supersedes(message, self._waiting[-1]):
            self._waiting.pop()
        self._waiting.append(message)
        self._arrived.set()

    async def get(self, timeout_s: float) -> Message | None:
        """The next message; None if none came within `timeout_s`."""
        if not self._waiting:
            self._arrived.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        return self._waiting.popleft()

    def drain(self) -> list[Message]:
        rest = list(self._waiting)
        self._waiting.clear()
        return rest


def _supersedes(new: Message, old: Message) -> bool:
    if isinstance(new, ProgressState) and isinstance(old, ProgressState):
        return new.prompt_id == old.prompt_id
    if isinstance(new, Progress) and isinstance(old, Progress):
        return new.node == old.node
    return isinstance(new, Preview) and isinstance(old, Preview) and new.image_type == old.image_type == "jpeg"

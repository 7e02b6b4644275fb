"""Messages between the socket, which must never wait, and a consumer that may be busy uploading.

What a newer message supersedes is dropped while it waits: progress snapshots (20 KB each in a 200-node graph), a node's
steps and its JPEG previews. So it holds a few messages a node, however long the consumer takes. Nothing else is ever
dropped. PNG frames are kept: SaveImageWebsocket sends its results by them.
"""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Hashable

from workflows.messages import Message, Preview, Progress, ProgressState, Status, Unknown


class Inbox:
    """One producer, one consumer, one event loop."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, Message] = OrderedDict()
        self._numbers = itertools.count()
        self._woken = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: Message) -> None:
        """Keep what is about prompts; the queue's status and unknown types are not."""
        if isinstance(message, Status | Unknown):
            return
        topic = _topic(message)
        key = next(self._numbers) if topic is None else topic
        self._waiting.pop(key, None)
        self._waiting[key] = message
        self._woken.set()

    def wake(self) -> None:
        """Let `get` return now, with None if nothing waits."""
        self._woken.set()

    async def get(self, timeout_s: float) -> Message | None:
        """The next message; None if none came within `timeout_s`, or after `wake`."""
        if not self._waiting:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._woken.wait()
            except TimeoutError:
                return None
        self._woken.clear()
        return self.get_nowait()

    def get_nowait(self) -> Message | None:
        return self._waiting.popitem(last=False)[1] if self._waiting else None


def _topic(message: Message) -> Hashable | None:
    """Of two waiting messages on one topic only the newer counts; None is a topic of its own each time."""
    match message:
        case ProgressState(prompt_id=prompt_id):
            return ("progress_state", prompt_id)
        case Progress(prompt_id=prompt_id, node=node):
            return ("progress", prompt_id, node)
        case Preview(image_type="jpeg", node_id=node_id, prompt_id=prompt_id):
            return ("preview", prompt_id, node_id)
        case _:
            return None

"""Buffers messages between the socket, which must never block, and a consumer that may be busy with uploads.

A newer message replaces waiting ones that it supersedes: progress snapshots (20 KB each in a 200-node graph), a node's
steps and its JPEG previews. So the buffer has a few messages per node, however long the consumer takes. No other
message is discarded. PNG frames are kept, since SaveImageWebsocket sends its results as PNG frames.
"""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Hashable

from workflows.messages import Message, Preview, Progress, ProgressState, Status, Unknown


class Inbox:
    """A buffer for one producer and one consumer in one event loop."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, Message] = OrderedDict()
        self._numbers = itertools.count()
        self._woken = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: Message) -> None:
        """Keep a message about a prompt; the queue's status and unknown types are ignored."""
        if isinstance(message, Status | Unknown):
            return
        topic = _topic(message)
        key = next(self._numbers) if topic is None else topic
        # Removed first, so that the newer message goes behind those that arrived before it.
        self._waiting.pop(key, None)
        self._waiting[key] = message
        self._woken.set()

    def wake(self) -> None:
        """Make `get` return now, with None if no message waits."""
        self._woken.set()

    async def get(self, timeout_s: float) -> Message | None:
        """Return the next message; None if none arrived within `timeout_s`, or after `wake`."""
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
    """Return the topic of a message, of which only the newest is kept; None means that the message is always kept."""
    match message:
        case ProgressState(prompt_id=prompt_id):
            return ("progress_state", prompt_id)
        case Progress(prompt_id=prompt_id, node=node):
            return ("progress", prompt_id, node)
        case Preview(image_type="jpeg", node_id=node_id, prompt_id=prompt_id):
            return ("preview", prompt_id, node_id)
        # PNG frames are all kept, since SaveImageWebsocket sends its results as such.
        case _:
            return None

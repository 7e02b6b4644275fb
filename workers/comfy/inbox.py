"""Buffers messages between the socket and a consumer that may be busy, within a limit.

A newer message replaces waiting ones that it supersedes: progress snapshots (20 KB each in a 200-node graph), a node's
steps and its JPEG previews. So the buffer of an honest engine has a few messages per node, however long the consumer
takes. No other message of the prompt is discarded. PNG frames are kept, since SaveImageWebsocket sends its results as
PNG frames. When the buffer is full, the socket is not read until the consumer has taken something.
"""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Hashable

from workflows.messages import Message, Preview, Progress, ProgressState, ProgressText, Status, Unknown

MAX_INBOX_WEIGHT = 32 * 1024 * 1024
"""Weight of the waiting messages, in bytes of their frames, from which on the socket is not read."""
MAX_MESSAGES = 10_000
"""Number of waiting messages from which on the socket is not read. The largest graph has 2,000 nodes."""


class Inbox:
    """A buffer for one producer and one consumer in one event loop.

    Messages that name another prompt than `prompt_id` are discarded; while it is None, all that name one.
    """

    def __init__(self) -> None:
        self.prompt_id: str | None = None
        self._waiting: OrderedDict[Hashable, tuple[Message, int]] = OrderedDict()
        self._weight = 0
        self._numbers = itertools.count()
        self._woken = asyncio.Event()
        self._taken = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        return self._weight >= MAX_INBOX_WEIGHT or len(self._waiting) >= MAX_MESSAGES

    def put(self, message: Message, weight: int) -> None:
        """Keep a message whose frame has this weight. Progress texts, the queue's status and unknown types are ignored.

        The producer awaits `room` before the next one.
        """
        if isinstance(message, Status | ProgressText | Unknown):
            return
        if getattr(message, "prompt_id", None) not in (None, self.prompt_id):
            return
        topic = _topic(message)
        key = next(self._numbers) if topic is None else topic
        # Removed first, so that the newer message goes behind those that arrived before it.
        self._remove(key)
        self._waiting[key] = message, weight
        self._weight += weight
        self._woken.set()

    async def room(self) -> None:
        """Wait until the buffer is not full."""
        while self.is_full:
            self._taken.clear()
            await self._taken.wait()

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
        return self._remove(next(iter(self._waiting))) if self._waiting else None

    def _remove(self, key: Hashable) -> Message | None:
        message, weight = self._waiting.pop(key, (None, 0))
        self._weight -= weight
        self._taken.set()
        return message


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

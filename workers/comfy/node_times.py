"""How long each node of a prompt ran, by ComfyUI's messages. Sans-I/O: times are the caller's.

A node runs from its `executing` message to the next one, so of nodes that run concurrently each counts until another
one begins.
"""

from collections.abc import Callable

from storage.jobs.models import NodeTime
from workflows.messages import (
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionSuccess,
    Message,
)

MOST_NODES = 100
"""Nodes in a job's record, which every GET, list and event reads as a whole. The slowest ones are kept."""
MOST_WATCHED = 10_000
"""Nodes that are timed. A loop may expand to any number, each with an id of its own."""


class NodeTimes:
    """The times of one prompt. `now` is in seconds of any clock."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._cached: set[str] = set()
        self._left_out = 0
        self._running: tuple[str, float] | None = None

    def note(self, message: Message, now: float) -> None:
        match message:
            case ExecutionCached(nodes=nodes):
                self._cached.update(nodes[: MOST_WATCHED - len(self._cached)])
            case Executing(node=node):
                self._end(now)
                self._running = None if node is None else (node, now)
            case ExecutionSuccess() | ExecutionError() | ExecutionInterrupted():
                self._end(now)

    def _end(self, now: float) -> None:
        if self._running is None:
            return
        node, began = self._running
        self._running = None
        if node not in self._seconds and len(self._seconds) >= MOST_WATCHED:
            self._left_out += 1
            return
        self._seconds[node] = self._seconds.get(node, 0.0) + now - began  # a node may be asked for more than once

    def slowest(self, class_of: Callable[[str], str | None]) -> tuple[tuple[NodeTime, ...], int]:
        """Return the slowest nodes in the order in which they ran, cached ones last, and the number of the others."""
        times = [
            NodeTime(node_id=node, class_type=class_of(node), seconds=round(seconds, 3))
            for node, seconds in self._seconds.items()
        ]
        times += [
            NodeTime(node_id=node, class_type=class_of(node), seconds=0.0, cached=True)
            for node in sorted(self._cached - self._seconds.keys())
        ]
        kept = sorted(range(len(times)), key=lambda position: -times[position].seconds)[:MOST_NODES]
        return tuple(times[position] for position in sorted(kept)), self._left_out + len(times) - len(kept)

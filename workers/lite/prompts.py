"""The queued, running and finished prompts, shared by the server and the executor's thread."""

import heapq
import itertools
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_HISTORY = 10_000
MAX_HISTORY_BYTES = 64 * 1024 * 1024
"""Maximum JSON of all entries. The newest is always kept, since its client has not read it yet."""


@dataclass(frozen=True, slots=True)
class QueuedPrompt:
    """`number` orders the queue; smaller runs first."""

    number: float
    prompt_id: str
    graph: dict[str, Any]
    extra_data: dict[str, Any]
    outputs: tuple[str, ...]

    @property
    def client_id(self) -> str | None:
        return self.extra_data.get("client_id")

    def as_list(self) -> list[Any]:
        """Return the prompt in the form of GET /queue and the history."""
        return [self.number, self.prompt_id, self.graph, self.extra_data, list(self.outputs)]


@dataclass(slots=True)
class Record:
    """One prompt's entry of GET /history."""

    prompt: QueuedPrompt
    outputs: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    messages: list[list[Any]] = field(default_factory=list)
    succeeded: bool = False

    def status(self) -> dict[str, Any]:
        text = "success" if self.succeeded else "error"
        return {"status_str": text, "completed": self.succeeded, "messages": self.messages}

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt.as_list(),
            "outputs": self.outputs,
            "status": self.status(),
            "meta": self.meta,
        }

    def size(self) -> int:
        """Return the bytes of the entry's JSON; `MAX_HISTORY_BYTES` if a node's code returned what JSON cannot hold."""
        try:
            return len(json.dumps(self.as_json()))
        except (TypeError, ValueError, RecursionError):
            return MAX_HISTORY_BYTES


def node_meta(node_id: str) -> dict[str, Any]:
    """Return the history's description of an output's node."""
    return {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}


class Prompts:
    """`changed` is called from any thread under the lock, so that its messages keep the order of the changes."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._lock = threading.Condition()
        self._waiting: list[tuple[float, int, QueuedPrompt]] = []
        self._running: QueuedPrompt | None = None
        self._history: dict[str, Record] = {}
        self._sizes: dict[str, int] = {}
        self._total = 0
        self._order = itertools.count()

    def put(self, prompt: QueuedPrompt) -> None:
        with self._lock:
            # The count keeps equal numbers in order, and prompts, which have no order, from being compared.
            heapq.heappush(self._waiting, (prompt.number, next(self._order), prompt))
            self._lock.notify()
            self._changed()

    def take(self) -> QueuedPrompt:
        """Block until a prompt is queued, and make it the running one."""
        with self._lock:
            while not self._waiting:
                self._lock.wait()
            self._running = heapq.heappop(self._waiting)[2]
            self._changed()
            return self._running

    def finish(self, record: Record) -> None:
        size = record.size()
        with self._lock:
            self._running = None
            self._remove(record.prompt.prompt_id)  # so that an equal id becomes the newest
            self._history[record.prompt.prompt_id] = record
            self._sizes[record.prompt.prompt_id] = size
            self._total += size
            while len(self._history) > MAX_HISTORY or (self._total > MAX_HISTORY_BYTES and len(self._history) > 1):
                self._remove(next(iter(self._history)))
            self._changed()

    @property
    def remaining(self) -> int:
        with self._lock:
            return len(self._waiting) + (self._running is not None)

    def is_running(self, prompt_id: str) -> bool:
        running = self._running
        return running is not None and running.prompt_id == prompt_id

    def unfinished(self) -> tuple[list[QueuedPrompt], list[QueuedPrompt]]:
        """Return the running prompt, if any, and the queued ones."""
        with self._lock:
            return [self._running] if self._running else [], [item[2] for item in self._waiting]

    def snapshot(self) -> dict[str, Any]:
        running, waiting = self.unfinished()
        return {
            "queue_running": [prompt.as_list() for prompt in running],
            "queue_pending": [prompt.as_list() for prompt in waiting],
        }

    def clear_waiting(self) -> None:
        with self._lock:
            self._waiting = []
            self._changed()

    def drop_waiting(self, prompt_id: str) -> bool:
        """Remove one queued prompt of this id, without history or message; return whether there was one."""
        with self._lock:
            position = next((i for i, item in enumerate(self._waiting) if item[2].prompt_id == prompt_id), None)
            if position is None:
                return False
            del self._waiting[position]
            heapq.heapify(self._waiting)
            self._changed()
            return True

    def records(self) -> list[Record]:
        with self._lock:
            return list(self._history.values())

    def history(self, *, limit: int | None = None, offset: int = -1) -> dict[str, Any]:
        records = self.records()
        if offset < 0 and limit is not None:
            offset = max(0, len(records) - limit)
        start = max(0, offset)
        chosen = records[start : None if limit is None else start + limit]
        return {record.prompt.prompt_id: record.as_json() for record in chosen}

    def find_record(self, prompt_id: str) -> Record | None:
        with self._lock:
            return self._history.get(prompt_id)

    def forget(self, prompt_ids: Mapping[str, Any] | frozenset[str] | None) -> None:
        with self._lock:
            for prompt_id in list(self._history) if prompt_ids is None else list(prompt_ids):
                self._remove(prompt_id)

    def _remove(self, prompt_id: str) -> None:
        """Remove an entry, if there is one. The caller holds the lock."""
        self._history.pop(prompt_id, None)
        self._total -= self._sizes.pop(prompt_id, 0)

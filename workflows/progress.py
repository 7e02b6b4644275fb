"""Computes the progress of a prompt with a reducer over ComfyUI's messages.

    percent = 50 × finished nodes / nodes to execute + 50 × steps of the current sampler     (once one has begun)
    percent = 100 × finished nodes / nodes to execute                                         (before, or without)

It may decrease when a second sampler begins, and stays below 100 until the prompt ends. Cached nodes count as finished.
Nodes of an expanded subgraph count towards the node that was expanded, whose id precedes the first dot of theirs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from workflows.messages import (
    Executed,
    Executing,
    ExecutionCached,
    ExecutionSuccess,
    Message,
    Progress,
    ProgressState,
)

_ALMOST = 99


@dataclass(frozen=True, slots=True)
class ProgressModel:
    """The progress of one prompt. `to_execute` are the nodes that ComfyUI executes or takes from its cache."""

    to_execute: frozenset[str]
    finished: frozenset[str] = field(default=frozenset())
    current_node: str | None = None
    value: float = 0
    max: float = 0
    over: bool = False

    @classmethod
    def start(cls, to_execute: Iterable[str]) -> "ProgressModel":
        return cls(frozenset(to_execute))

    def reduce(self, message: Message) -> "ProgressModel":
        """Return the model after this message: the identical object if nothing changed."""
        match message:
            case ExecutionCached(nodes=nodes):
                return self._finish(nodes)
            # The end of the prompt, whether it succeeded or not.
            case Executing(node=None):
                return self
            case Executing(node=str(node), display_node=shown):
                return self._begin(shown or _origin(node))
            case Progress(value=value, max=maximum):
                # Many nodes report a single step; only a sampler's steps measure progress within a node.
                return self if maximum <= 1 else replace(self, value=value, max=maximum)
            case ProgressState(nodes=nodes):
                return self._finish(node.node_id for node in nodes if node.state == "finished")
            case Executed(display_node=node):
                return self._finish([node])
            case ExecutionSuccess():
                return replace(self, finished=self.to_execute, current_node=None, over=True)
            case _:
                return self

    @property
    def nodes_total(self) -> int:
        return len(self.to_execute)

    @property
    def nodes_completed(self) -> int:
        return len(self.finished)

    @property
    def step(self) -> str | None:
        """The current sampler's step, as "12/49"; None before the first sampler."""
        return f"{self.value:.0f}/{self.max:.0f}" if self.max > 1 else None

    @property
    def percent(self) -> int:
        if self.over:
            return 100
        nodes = self.nodes_completed / self.nodes_total if self.nodes_total else 0.0
        share = 0.5 * nodes + 0.5 * max(0.0, min(self.value / self.max, 1.0)) if self.max > 1 else nodes
        return min(int(100 * share), _ALMOST)

    def _begin(self, node: str) -> "ProgressModel":
        # The start of a node does not show that earlier nodes have finished: only their own messages do.
        return self if node == self.current_node else replace(self, current_node=node)

    def _finish(self, nodes: Iterable[str]) -> "ProgressModel":
        finished = self.finished | (self.to_execute & frozenset(nodes))
        return self if finished == self.finished else replace(self, finished=finished)


def _origin(node_id: str) -> str:
    """Return the submitted node's id: a node of an expanded subgraph has an id like 2.0.0.3."""
    return node_id.split(".", 1)[0]

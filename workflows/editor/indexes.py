"""What is looked up again and again in one graph of a document: its links by their ends, and its nodes by names.

All instances of a subgraph share one index, since it depends on the definition alone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from workflows.editor.document import INPUT_NODE, OUTPUT_NODE, EditorGraph, EditorLink, EditorNode

SET = "SetNode"


class GraphIndex:
    """`from_node` are the links by their origins, in the saved order; `to_output` the first link to each output."""

    def __init__(self, graph: EditorGraph) -> None:
        self.from_node: dict[str, list[EditorLink]] = {}
        self.to_output: dict[int, EditorLink] = {}
        self._input_names: dict[tuple[str, int], str] = {}
        self._promoted: dict[tuple[str, str], str] = {}
        self._setters: dict[str | float, str] = {}
        for link in graph.links.values():
            self.from_node.setdefault(link.origin, []).append(link)
            if link.target == OUTPUT_NODE:
                self.to_output.setdefault(link.target_slot, link)
        for node in graph.nodes.values():
            self._add_inputs(graph, node)
            name = _name(first_value(node)) if node.kind == SET else None
            if name is not None:
                self._setters.setdefault(name, node.id)

    def _add_inputs(self, graph: EditorGraph, node: EditorNode) -> None:
        for slot in node.inputs:
            link = graph.link_of(slot)
            if link is not None:
                self._input_names.setdefault((node.id, id(link)), slot.name)
                if link.origin == INPUT_NODE and 0 <= link.origin_slot < len(graph.inputs):
                    self._promoted.setdefault((node.id, slot.name), graph.inputs[link.origin_slot].name)

    def attach(self, node_id: str, name: str, link: EditorLink) -> None:
        """Let a link end at this input of a node, which does not name it."""
        self._input_names.setdefault((node_id, id(link)), name)

    def input_name(self, node_id: str, link: EditorLink) -> str:
        """Return the name of the node's input that this link of the graph ends at, or an empty text."""
        return self._input_names.get((node_id, id(link)), "")

    def promoted_to(self, node_id: str, name: str) -> str:
        """Return the subgraph's input that feeds this input of a node, or an empty text."""
        return self._promoted.get((node_id, name), "")

    def setter(self, name: Any) -> str | None:
        """Return the id of the first SetNode of this name."""
        found = _name(name)
        return None if found is None else self._setters.get(found)


class Indexes:
    """The indexes of a document's graphs, each made when it is first needed."""

    def __init__(self) -> None:
        self._made: dict[int, GraphIndex] = {}

    def of(self, graph: EditorGraph) -> GraphIndex:
        key = id(graph)  # the document keeps its graphs, so no other one gets this identity
        if key not in self._made:
            self._made[key] = GraphIndex(graph)
        return self._made[key]


def first_value(node: EditorNode) -> Any:
    values: Sequence[Any] | Mapping[str, Any] = node.values
    return values[0] if values and not isinstance(values, Mapping) else None


def _name(value: Any) -> str | float | None:
    """Return what a name is compared by, or None for a value that equals no other."""
    # The editor compares by identity, so a list or an object is never the name of another node. All its numbers are
    # floats: whole numbers of any length could be chosen so that a dict holds them in one place.
    if isinstance(value, str):
        return value
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return math.inf

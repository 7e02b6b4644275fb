"""What the deployed engine's nodes are (ComfyUI's object_info), and whether a graph fits them.

Without object_info (no worker has published one yet) only the graph's own structure is known: then any class is
accepted, and the nodes that nothing links to count as the outputs. Values are the engine's business to check.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from workflows.errors import (
    DanglingLink,
    MissingRequiredInput,
    NoOutputNode,
    UnknownInputField,
    UnknownInputNode,
    UnknownNodeClass,
    pointer,
)
from workflows.graph import Graph, Node


class Catalogue:
    """`object_info` as GET /object_info answers; None where it is not known."""

    def __init__(self, object_info: Mapping[str, Any] | None) -> None:
        self._info = object_info

    @classmethod
    def absent(cls) -> "Catalogue":
        return cls(None)

    def check(self, graph: Graph) -> None:
        """Refuse what the engine would refuse for its structure: classes, required inputs, output slots.

        Classes must exist everywhere; the rest matters only where an output depends on it, as in ComfyUI.
        """
        if self._info is not None:
            for node_id, node in graph.nodes.items():
                self._check_class(node_id, node)
        outputs = self.output_nodes(graph)
        if not outputs:
            raise NoOutputNode(
                "no node of this workflow saves or shows anything",
                hint="add an output node, SaveImage for one",
            )
        reached = graph.ancestors(outputs)
        for node_id in (node_id for node_id in graph.nodes if node_id in reached):
            self._check_slots(graph, node_id, graph.nodes[node_id])
            self._check_required(node_id, graph.nodes[node_id])

    def output_nodes(self, graph: Graph) -> frozenset[str]:
        """The nodes for whose sake ComfyUI executes anything."""
        if self._info is None:
            return graph.leaves()
        return frozenset(
            node_id for node_id, node in graph.nodes.items() if self._class(node.class_type).get("output_node")
        )

    def apply(self, graph: Graph, values: Iterable[tuple[str, str, Any]]) -> Graph:
        """The graph with (node id, field, value) set; an unknown node or field is refused by name.

        A field is known if the graph sets it already, or if the engine says that the class has it.
        """
        known = list(values)
        for position, (node_id, field, _) in enumerate(known):
            node = graph.nodes.get(node_id)
            if node is None:
                raise UnknownInputNode(
                    f"the workflow has no node {node_id}",
                    pointer=pointer(position, "node"),
                    node_id=node_id,
                    hint=_suggest(node_id, graph.nodes),
                )
            if field not in node.inputs and field not in self._inputs(node.class_type):
                raise UnknownInputField(
                    f"node {node_id} ({node.class_type}) has no field {field}",
                    pointer=pointer(position, "field"),
                    node_id=node_id,
                    hint=_suggest(field, {*node.inputs, *self._inputs(node.class_type)}),
                )
        return graph.with_values(known)

    def _class(self, class_type: str) -> Mapping[str, Any]:
        found = (self._info or {}).get(class_type)
        return found if isinstance(found, Mapping) else {}

    def _inputs(self, class_type: str) -> set[str]:
        groups = self._class(class_type).get("input", {})
        return {name for group in ("required", "optional") for name in groups.get(group) or ()}

    def _check_class(self, node_id: str, node: Node) -> None:
        if self._info is not None and node.class_type not in self._info:
            raise UnknownNodeClass(
                f"node {node_id} is a {node.class_type}, which this deployment does not have",
                pointer=pointer(node_id, "class_type"),
                node_id=node_id,
                hint=_suggest(node.class_type, self._info)
                or "install the custom node that provides it, or remove the node",
            )

    def _check_required(self, node_id: str, node: Node) -> None:
        for name in self._class(node.class_type).get("input", {}).get("required") or ():
            if name not in node.inputs and not self._has_parts(node, name):
                raise MissingRequiredInput(
                    f"node {node_id} ({node.class_type}) lacks its required input {name}",
                    pointer=pointer(node_id, "inputs", name),
                    node_id=node_id,
                    hint=f"set {name}, or link it",
                )

    @staticmethod
    def _has_parts(node: Node, name: str) -> bool:
        """Inputs that grow are sent in parts: `images.image0` for `images`."""
        return any(given.startswith(f"{name}.") for given in node.inputs)

    def _check_slots(self, graph: Graph, node_id: str, node: Node) -> None:
        for name, link in node.links().items():
            source = graph.nodes[link.node_id]
            outputs = self._class(source.class_type).get("output")
            if isinstance(outputs, list) and link.slot >= len(outputs):
                raise DanglingLink(
                    f"input {name} of node {node_id} links to output {link.slot} of node {link.node_id} "
                    f"({source.class_type}), which has {len(outputs)}",
                    pointer=pointer(node_id, "inputs", name),
                    node_id=node_id,
                    hint="link to an output that the node has; slots count from 0",
                )


def _suggest(wrong: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(wrong, list(known), n=3)
    return f"did you mean {' or '.join(close)}?" if close else ""

"""Parses ComfyUI's API format: `{node id: {"class_type", "inputs", …}}`, links as `[node id, output slot]`.

The nodes of a `Graph` are well formed. Its links may dangle or form a cycle: ComfyUI runs such a graph if no output
depends on the affected nodes. `workflows.catalogue` decides which outputs can run.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from workflows.errors import BadNode, NotAWorkflow, UiFormat, pointer

SHAPE_LENGTH = 16
LONGEST_NAME = 256
"""Characters of a node's id, its class or an input's name. The longest published name has half as many."""
MOST_INPUTS = 1_000
"""Inputs of one node. Nodes with a growing number of inputs have some dozens."""


class Link(NamedTuple):
    """The source of a linked input: a node and the index of its output."""

    node_id: str
    slot: int


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph. `rest` keeps its other members, such as `_meta`."""

    class_type: str
    inputs: Mapping[str, Any]
    rest: Mapping[str, Any]

    def links(self) -> dict[str, Link]:
        """Return the linked inputs by name."""
        return {name: link for name, value in self.inputs.items() if (link := as_link(value)) is not None}


@dataclass(frozen=True, slots=True)
class Graph:
    nodes: Mapping[str, Node]

    def with_values(self, values: Iterable[tuple[str, str, Any]]) -> "Graph":
        """Return the graph with each (node id, field, value) set. The nodes must exist."""
        # Inputs are copied, because the jobs of a batch share one graph.
        changed = {node_id: dict(node.inputs) for node_id, node in self.nodes.items()}
        for node_id, field, value in values:
            changed[node_id][field] = value
        return Graph(
            {node_id: Node(node.class_type, changed[node_id], node.rest) for node_id, node in self.nodes.items()}
        )

    def count_values(self) -> int:
        """Count the values of all inputs, and the members of the lists and objects among them."""
        count, waiting = 0, [list(node.inputs.values()) for node in self.nodes.values()]
        while waiting:
            for value in waiting.pop():
                count += 1
                if isinstance(value, list | dict):
                    waiting.append(list(value.values()) if isinstance(value, dict) else value)
        return count

    def ancestors(self, node_ids: Iterable[str]) -> frozenset[str]:
        """Return these nodes and all nodes that they depend on: what ComfyUI executes for these outputs."""
        found: set[str] = set()
        waiting = list(node_ids)
        while waiting:
            node_id = waiting.pop()
            if node_id not in found and node_id in self.nodes:
                found.add(node_id)
                waiting.extend(link.node_id for link in self.nodes[node_id].links().values())
        return frozenset(found)

    def leaves(self) -> frozenset[str]:
        """Return the nodes that no other node links to."""
        used = {link.node_id for node in self.nodes.values() for link in node.links().values()}
        return frozenset(self.nodes) - used

    def loose_ends(self) -> frozenset[str]:
        """Return the probable outputs by structure alone: leaves that depend on other nodes, or else every leaf."""
        leaves = self.leaves()
        # A leaf without links, such as an unused loader, has nothing to save.
        return frozenset(node_id for node_id in leaves if self.nodes[node_id].links()) or leaves

    def shape(self) -> str:
        """Hash the classes and links without the values. Jobs of one shape take about the same time."""
        skeleton = {
            node_id: [node.class_type, sorted((name, *link) for name, link in node.links().items())]
            for node_id, node in self.nodes.items()
        }
        return hashlib.sha256(json.dumps(skeleton, sort_keys=True).encode()).hexdigest()[:SHAPE_LENGTH]


def as_link(value: object) -> Link | None:
    """Return the link, or None for a literal. ComfyUI takes a list of a node id and a slot for a link."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    node_id, slot = value
    if not isinstance(node_id, str):
        return None
    # ComfyUI indexes a Python list with the slot, so -1 is the last output, true is 1, and 1.0 counts as 1 here.
    if isinstance(slot, int) or (isinstance(slot, float) and slot.is_integer()):
        return Link(node_id, int(slot))
    return None


def parse_graph(document: object) -> Graph:
    """Parse a workflow in API format. Raises a `WorkflowError` that names the node; see `workflows.errors`."""
    if isinstance(document, str):
        hint = "send the graph itself, not its text: without quotes around it, and without backslashes in it"
        raise NotAWorkflow("the workflow is a string, and a workflow is a JSON object of nodes", hint=hint)
    if not isinstance(document, dict):
        raise NotAWorkflow("a workflow is a JSON object of nodes", hint=_EXPORT_HINT)
    if is_editor_file(document):
        raise UiFormat("this workflow is in the editor's format, which only the editor can run", hint=_EXPORT_HINT)
    if not document:
        raise NotAWorkflow("the workflow has no nodes", hint=_EXPORT_HINT)
    # Common mistakes are recognized before the nodes are parsed, where they would be reported as malformed nodes.
    for member, origin in _ENVELOPES.items():
        if is_graph(document.get(member)):
            problem = f"this is {origin}, and the workflow is what stands in it under `{member}`"
            raise NotAWorkflow(problem, pointer=pointer(member), hint=f"send the value of `{member}` as `workflow`")
    return Graph({str(node_id): _parse_node(str(node_id), node) for node_id, node in document.items()})


_ENVELOPES = {"prompt": "a body of ComfyUI's POST /prompt", "output": "what the editor's graphToPrompt() returns"}


def is_editor_file(value: object) -> bool:
    """Report whether the value is what the editor saves, rather than what it exports in API format."""
    return isinstance(value, dict) and isinstance(value.get("nodes"), list)


def is_graph(value: object) -> bool:
    """Report whether the value is a graph of nodes."""
    return (
        isinstance(value, dict)
        and "class_type" not in value  # a node with the id `prompt` is valid, and has a class_type
        and any(isinstance(node, dict) and "class_type" in node for node in value.values())
    )


_EXPORT_HINT = "in ComfyUI choose Workflow → Export (API) and send that file's content"


def _parse_node(node_id: str, node: object) -> Node:
    if not isinstance(node, dict):
        raise BadNode(f"node {node_id} is not an object", pointer=pointer(node_id), node_id=node_id, hint=_EXPORT_HINT)
    class_type = node.get("class_type")
    if not isinstance(class_type, str) or not class_type:
        raise BadNode(f"node {node_id} has no class_type", pointer=pointer(node_id), node_id=node_id, hint=_EXPORT_HINT)
    inputs = node.get("inputs", {})
    if not isinstance(inputs, dict):
        raise BadNode(
            f"the inputs of node {node_id} are not an object", pointer=pointer(node_id, "inputs"), node_id=node_id
        )
    if len(inputs) > MOST_INPUTS:
        problem = f"node {node_id} has {len(inputs)} inputs, at most {MOST_INPUTS} are allowed"
        raise BadNode(problem, pointer=pointer(node_id, "inputs"), node_id=node_id)
    # Names are repeated in errors, reports and the stored record, so their length is bounded.
    for name in (node_id, class_type, *inputs):
        if len(name) > LONGEST_NAME:
            problem = f"the name {name[:50]!r}… in node {node_id[:50]} is longer than {LONGEST_NAME} characters"
            raise BadNode(problem, pointer=pointer(node_id[:LONGEST_NAME]), node_id=node_id[:LONGEST_NAME])
    rest = {key: value for key, value in node.items() if key not in ("class_type", "inputs")}
    return Node(class_type, inputs, rest)

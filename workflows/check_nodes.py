"""Checks a node and its links against the declaration of its class, by ComfyUI's rules and with its messages."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from workflows.check_values import check_value
from workflows.declarations import InputDeclaration, NodeDeclaration
from workflows.errors import (
    DanglingLink,
    LinkTypeMismatch,
    MissingRequiredInput,
    WorkflowCycle,
    WorkflowError,
    WrongInputType,
    pointer,
)
from workflows.graph import Graph, as_link
from workflows.input_files import Files
from workflows.location import Location, clipped, plain, short, words

MOST_NAMED = 20
"""Nodes of a cycle that an error names."""
_ANY = "*"
_MATCHED_BY_EDITOR = "COMFY_MATCHTYPE"


def check_link(
    location: Location, value: list[Any], graph: Graph, class_of: Callable[[str], NodeDeclaration]
) -> WorkflowError | None:
    """Check a list value, which ComfyUI always takes for a link. `class_of` returns a class's declaration by name."""
    declared = location.declared
    if len(value) != 2:
        message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        problem = f"{location.words} is a list, which ComfyUI takes for a link, and a link is [node id, output slot]"
        said = ("bad_linked_input", message, declared.name)
        return location.fault(
            WrongInputType, problem, said, _WRAP, input_config=declared.config, received_value=short(value)
        )
    link = as_link(value)
    # ComfyUI indexes a tuple with the slot, and a float is no index, not even 1.0.
    if link is None or link.node_id not in graph.nodes or isinstance(value[1], float):
        # ComfyUI looks the node up in a dictionary, so its message is the text of a KeyError.
        said = ("exception_during_validation", "Exception when validating node", words(value[0]))
        problem = f"{location.words} is {words(value)}, which ComfyUI takes for a link to a node that does not exist"
        hint = f"link to a node of this workflow; {_WRAP}"
        return location.fault(DanglingLink, problem, said, hint, exception_type="KeyError", traceback=[])
    source = class_of(graph.nodes[link.node_id].class_type)
    if source.outputs is None:  # object_info does not describe the source's class
        return None
    # Negative slots are valid: ComfyUI indexes a Python list.
    if not -len(source.outputs) <= link.slot < len(source.outputs):
        return _no_such_slot(
            location, link.slot, link.node_id, graph.nodes[link.node_id].class_type, len(source.outputs)
        )
    received = source.outputs[link.slot]
    if location.is_custom or declared.is_dynamic or types_match(received, declared.kind):
        return None
    wanted = "a choice" if declared.is_combo else declared.kind
    problem = f"{location.words} wants {wanted}, and output {link.slot} of node {link.node_id} is {received}"
    details = f"{declared.name}, received_type({received}) mismatch input_type({plain(declared.kind)})"
    said = ("return_type_mismatch", "Return type mismatch between linked nodes", details)
    return location.fault(
        LinkTypeMismatch, problem, said, input_config=declared.config, received_type=received, linked_node=value
    )


_WRAP = 'to send a list as a value, wrap it: {"__value__": […]}'


def _no_such_slot(location: Location, slot: int, source_id: str, class_type: str, count: int) -> WorkflowError:
    return location.fault(
        DanglingLink,
        f"{location.words} links to output {plain(slot)} of node {source_id} ({class_type}), which has {count}",
        ("exception_during_validation", "Exception when validating node", "tuple index out of range"),
        "link to an output that the node has; slots count from 0",
        exception_type="IndexError",
        traceback=[],
    )


def dangling(graph: Graph, node_id: str) -> Iterator[WorkflowError]:
    """Yield a fault for each link to a missing node, undeclared links included: executing one aborts the prompt."""
    node = graph.nodes[node_id]
    for name, link in node.links().items():
        if link.node_id not in graph.nodes:
            missing = plain(link.node_id)
            said = f"Node {missing} not found"
            yield DanglingLink(
                f"input {name} of node {node_id} ({node.class_type}) links to node {missing}, which is not in the "
                "workflow",
                pointer=pointer(node_id, "inputs", name),
                node_id=node_id,
                hint="link to a node of this workflow, or remove the input",
                engine={"type": "exception_during_validation", "message": said, "details": name, "extra_info": {}},
            )


def ring_fault(graph: Graph, ring: Sequence[str]) -> WorkflowError:
    """Return the fault of a cycle, with the first nodes of a long one."""
    # The message is that of ComfyUI 0.33; 0.3.64 exceeds its recursion limit instead and has no message of its own.
    closed = [*ring, ring[0]] if len(ring) <= MOST_NAMED else ring[:MOST_NAMED]
    # Each node of the cycle gets the error, so long ids and names are cut.
    named = [clipped(node_id) for node_id in closed]
    classed = [clipped(f"{node_id} ({graph.nodes[node_id].class_type})") for node_id in closed]
    more = [] if len(ring) <= MOST_NAMED else ["…"]
    said = {
        "type": "dependency_cycle",
        "message": "Dependency cycle detected",
        "details": " -> ".join(classed + more),
        "extra_info": {"node_id": ring[0], "cycle_nodes": list(ring[:MOST_NAMED])},
    }
    return WorkflowCycle(
        f"nodes wait for each other: {' → '.join(named + more)}",
        pointer=pointer(ring[0]),
        ring=ring[:MOST_NAMED],
        hint="remove one of these links",
        engine=said,
    )


def types_match(received: Any, wanted: Any) -> bool:
    """Report whether two types match: equal, or unions (`"INT,FLOAT"`) that share a type.

    `*` matches every type, and so do match types (`COMFY_MATCHTYPE`), which only the editor resolves.
    """
    # An output that lists its choices (the old form) is a COMBO.
    if received == wanted or (isinstance(received, list) and wanted == "COMBO"):
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return _ANY in (received, wanted)
    either = {kind.strip() for kind in received.split(",")}, {kind.strip() for kind in wanted.split(",")}
    if any(kind == _ANY or kind.startswith(_MATCHED_BY_EDITOR) for kind in either[0] | either[1]):
        return True
    return bool(either[0] & either[1])


@dataclass(frozen=True, slots=True)
class NodeCheck:
    """Checks the nodes of one graph. `class_of` returns a class's declaration by name."""

    graph: Graph
    class_of: Callable[[str], NodeDeclaration]
    files: Files

    def faults(self, node_id: str) -> Iterator[WorkflowError]:
        """Yield the faults in the order of the declared inputs, followed by the parts of dynamic inputs."""
        node = self.graph.nodes[node_id]
        about = self.class_of(node.class_type)
        known = dict(about.inputs)
        for wanted in about.inputs.values():
            known |= {part.name: part for part in wanted.parts(node.inputs)}
        # Parts of other dynamic inputs are not declared one by one: only a link to them can be checked.
        for name, value in node.inputs.items():
            if name not in known and isinstance(value, list) and about.takes(name):
                known[name] = InputDeclaration(name, "*", {}, required=False)
        given = sorted(node.inputs)
        for wanted in known.values():
            location = Location(node_id, node, wanted, about)
            if wanted.name in node.inputs:
                fault = self._check(location, node.inputs[wanted.name])
            else:
                fault = _missing(location) if wanted.is_missing(given) else None
            if fault is not None:
                yield fault

    def _check(self, location: Location, value: Any) -> WorkflowError | None:
        if not isinstance(value, list):  # ComfyUI takes every list for a link
            return check_value(location, value, self.files)
        return check_link(location, value, self.graph, self.class_of)


def _missing(location: Location) -> WorkflowError:
    name = location.declared.name
    problem = f"node {location.node_id} ({location.node.class_type}) lacks its required input {name}"
    part = name if name in location.about.inputs else name.rpartition(".")[2]  # ComfyUI's message has no prefix
    said = ("required_input_missing", "Required input is missing", part)
    return location.fault(MissingRequiredInput, problem, said, f"set {name}, or link it")

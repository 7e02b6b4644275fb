"""Whether a link fits the input that it goes to, by ComfyUI's own rules and in its own words."""

from collections.abc import Callable
from typing import Any

from workflows.declarations import NodeDeclaration
from workflows.errors import DanglingLink, LinkTypeMismatch, WorkflowError, WrongInputType
from workflows.graph import Graph, as_link
from workflows.place import Place, short, words

_ANY = "*"
_MATCHED_BY_EDITOR = "COMFY_MATCHTYPE"


def judge_link(
    place: Place, value: list[Any], graph: Graph, class_of: Callable[[str], NodeDeclaration]
) -> WorkflowError | None:
    """A list is always a link. `class_of` gives the declaration of a class by its name."""
    declared = place.declared
    if len(value) != 2:
        message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        problem = f"{place.words} is a list, which ComfyUI takes for a link, and a link is [node id, output slot]"
        said = ("bad_linked_input", message, declared.name)
        return place.fault(
            WrongInputType, problem, said, _WRAP, input_config=declared.config, received_value=short(value)
        )
    link = as_link(value)
    if link is None or isinstance(value[1], float):
        said = ("exception_during_validation", "Exception when validating node", repr(value[0]))
        problem = f"{place.words} is {words(value)}, which ComfyUI takes for a link to a node that does not exist"
        return place.fault(DanglingLink, problem, said, _WRAP, exception_type="KeyError", traceback=[])
    source = class_of(graph.nodes[link.node_id].class_type)
    if source.outputs is None:
        return None
    if link.slot >= len(source.outputs):
        return _no_such_slot(place, link.slot, link.node_id, graph.nodes[link.node_id].class_type, len(source.outputs))
    received = source.outputs[link.slot]
    if place.is_custom or declared.is_dynamic or types_match(received, declared.kind):
        return None
    wanted = "a choice" if declared.is_combo else declared.kind
    problem = f"{place.words} wants {wanted}, and output {link.slot} of node {link.node_id} is {received}"
    details = f"{declared.name}, received_type({received}) mismatch input_type({declared.kind})"
    said = ("return_type_mismatch", "Return type mismatch between linked nodes", details)
    return place.fault(
        LinkTypeMismatch, problem, said, input_config=declared.config, received_type=received, linked_node=value
    )


_WRAP = 'to send a list as a value, wrap it: {"__value__": […]}'


def _no_such_slot(place: Place, slot: int, source_id: str, class_type: str, count: int) -> WorkflowError:
    return place.fault(
        DanglingLink,
        f"{place.words} links to output {slot} of node {source_id} ({class_type}), which has {count}",
        ("exception_during_validation", "Exception when validating node", "tuple index out of range"),
        "link to an output that the node has; slots count from 0",
        exception_type="IndexError",
        traceback=[],
    )


def types_match(received: Any, wanted: Any) -> bool:
    """Equal, or unions (`"INT,FLOAT"`) with a type in common; `*` matches all, and a matched type is the editor's."""
    if received == wanted or (isinstance(received, list) and wanted == "COMBO"):
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return _ANY in (received, wanted)
    either = {kind.strip() for kind in received.split(",")}, {kind.strip() for kind in wanted.split(",")}
    if any(kind == _ANY or kind.startswith(_MATCHED_BY_EDITOR) for kind in either[0] | either[1]):
        return True
    return bool(either[0] & either[1])

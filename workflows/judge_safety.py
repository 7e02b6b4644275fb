"""Whether a node is given what would lead it out of the job, by what its class declares.

Beside `workflows.policy` and `workflows.file_names`, which go by names alone. Every node is looked at, also one that
ComfyUI would not validate: it executes more than it validates.
"""

from collections.abc import Iterator
from typing import Any

from workflows.declarations import UNKNOWN, InputDeclaration
from workflows.errors import UnsafeFileName, ValueNotInList, WorkflowError, WrongInputType, pointer
from workflows.extras import ClassOf, carries_numbers, kinds
from workflows.file_names import fault_of_value, is_loader, names_a_file
from workflows.graph import Graph, Node, as_link
from workflows.judge_values import judge_listed
from workflows.model_files import Listing, listing
from workflows.place import Place

_MAY_BE_TEXT = ("STRING", "COMBO", "*", "COMFY_MATCHTYPE")
_LOADED = frozenset({"audio", "image", "latent", "mask", "video"})
_FRAMES = "WEBCAM"
"""What the browser has photographed: ComfyUI reads it as LoadImage does."""


def unsafe(graph: Graph, class_of: ClassOf) -> Iterator[WorkflowError]:
    for node_id, node in graph.nodes.items():
        about = class_of(node.class_type)
        if about is UNKNOWN:
            continue
        widgets = about.widgets(node.inputs)
        for name, value in node.inputs.items():
            declared = about.inputs.get(name) or widgets.get(name)
            if declared is None:
                continue
            place = Place(node_id, node, declared, about.is_custom)
            fault = (
                _of_option(place, value, graph, class_of)
                if name in widgets or declared.formats
                else _of_file(place, value, graph, class_of)
            )
            if fault is not None:
                yield fault


def _of_option(place: Place, value: Any, graph: Graph, class_of: ClassOf) -> WorkflowError | None:
    """A format, or one of its options: they become a file's name and options of ffmpeg."""
    if not isinstance(value, list):
        return judge_listed(place, value)
    if carries_numbers(place.declared, as_link(value), graph, class_of):
        return None
    problem = f"{place.words} cannot be linked here: it must be one of its choices"
    kind = WrongInputType if place.declared.is_number else ValueNotInList
    return place.fault(kind, problem, ("value_not_in_list", "Value not in list", place.declared.name), "set a value")


def _of_file(place: Place, value: Any, graph: Graph, class_of: ClassOf) -> WorkflowError | None:
    declared = place.declared
    if not _is_a_file(place.node, declared):
        return None
    link = as_link(value)
    if link is None:
        problem = fault_of_value(value)
    elif any(kind.startswith(_MAY_BE_TEXT) for kind in kinds(link, graph, class_of)):
        problem = "is linked, so that nobody could tell which file it names"
    else:
        problem = None
    if problem is None:
        return None
    return UnsafeFileName(
        f"{place.words} {problem}",
        pointer=pointer(place.node_id, "inputs", declared.name),
        node_id=place.node_id,
        hint="set the file's name as a value" if link else "",
    )


def _is_a_file(node: Node, declared: InputDeclaration) -> bool:
    """Of an input that takes text; models' names are looked up in ComfyUI's lists, and lead nowhere else."""
    choices = declared.choices
    if declared.uploads or declared.kind == _FRAMES:
        return True
    if choices is not None:
        if listing(declared, choices, "") is Listing.MODELS:
            return False
        is_list_of_files = bool(choices) and listing(declared, choices, "") is Listing.OTHER_FILES
    elif isinstance(declared.kind, str) and any(kind in declared.kind.split(",") for kind in ("STRING", "COMBO", "*")):
        is_list_of_files = False
    else:
        return False
    named = names_a_file(declared.name) or (is_loader(node.class_type) and declared.name in _LOADED)
    return is_list_of_files or named

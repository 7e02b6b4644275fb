"""Whether one input of a node fits what its class declares: ComfyUI's own rules, and its own words for the refusals.

Values are converted before they are compared, as ComfyUI does: "5" passes for an INT, and everything for a STRING.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workflows.declarations import InputDeclaration, NodeDeclaration
from workflows.errors import (
    DanglingLink,
    LinkTypeMismatch,
    MissingModel,
    MissingRequiredInput,
    ValueNotInList,
    ValueOutOfRange,
    WorkflowError,
    WrongInputType,
    pointer,
)
from workflows.graph import Graph, Node, as_link
from workflows.model_files import Listing, listing
from workflows.suggestions import suggestion

LONGEST_LIST = 20
"""ComfyUI repeats no longer list of choices in its errors."""
LONGEST_VALUE = 200
_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
_ANY = "*"
_MATCHED_BY_EDITOR = "COMFY_MATCHTYPE"


@dataclass(frozen=True, slots=True)
class Place:
    """An input of a node: where a fault is."""

    node_id: str
    node: Node
    declared: InputDeclaration

    @property
    def words(self) -> str:
        return f"input {self.declared.name} of node {self.node_id} ({self.node.class_type})"

    def fault(
        self, kind: type[WorkflowError], problem: str, engine: tuple[str, str, str], hint: str = "", **info: Any
    ) -> WorkflowError:
        """`engine` is ComfyUI's own type, message and details; `info` what it adds to the input's name."""
        about = {"input_name": self.declared.name, **info}
        return kind(
            problem,
            pointer=pointer(self.node_id, "inputs", self.declared.name),
            node_id=self.node_id,
            hint=hint,
            engine={"type": engine[0], "message": engine[1], "details": engine[2], "extra_info": about},
        )


def missing(place: Place) -> WorkflowError:
    name = place.declared.name
    problem = f"node {place.node_id} ({place.node.class_type}) lacks its required input {name}"
    said = ("required_input_missing", "Required input is missing", name)
    return place.fault(MissingRequiredInput, problem, said, f"set {name}, or link it")


def judge_link(
    place: Place, value: list[Any], graph: Graph, source: NodeDeclaration | None, *, types_are_known: bool
) -> WorkflowError | None:
    """A list is always a link. `source` is the class that it links to, if it is one."""
    declared = place.declared
    if len(value) != 2:
        message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        problem = f"{place.words} is a list, which ComfyUI takes for a link, and a link is [node id, output slot]"
        said = ("bad_linked_input", message, declared.name)
        return place.fault(
            WrongInputType, problem, said, _WRAP, input_config=declared.config, received_value=_short(value)
        )
    link = as_link(value)
    if link is None or isinstance(value[1], float):
        said = ("exception_during_validation", "Exception when validating node", repr(value[0]))
        problem = f"{place.words} is {_words(value)}, which ComfyUI takes for a link to a node that does not exist"
        return place.fault(DanglingLink, problem, said, _WRAP, exception_type="KeyError", traceback=[])
    if source is None or source.outputs is None:
        return None
    if link.slot >= len(source.outputs):
        return _no_such_slot(place, link.slot, link.node_id, graph.nodes[link.node_id].class_type, len(source.outputs))
    received = source.outputs[link.slot]
    if not types_are_known or types_match(received, declared.kind):
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


def judge_value(place: Place, value: Any, *, code_is_known: bool, files_are_known: bool) -> WorkflowError | None:
    """A literal. See `workflows.catalogue` for what the two flags leave to the engine."""
    declared = place.declared
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    try:
        if isinstance(declared.kind, str) and declared.kind in _CONVERSIONS:
            value = _CONVERSIONS[declared.kind](value)
    except (ValueError, TypeError, OverflowError) as error:
        return _not_converted(place, value, error)
    if code_is_known and (fault := _judge_range(place, value)) is not None:
        return fault
    choices = declared.choices
    if choices is None:
        return None
    many = value if declared.options.get("multiselect") and isinstance(value, list) else [value]
    wrong = [one for one in many if one not in choices]
    if not wrong:
        return None
    match listing(declared, choices, wrong[0]):
        case Listing.CHOICES if code_is_known:
            return _not_in_list(ValueNotInList, place, choices, wrong, value)
        case Listing.MODELS if files_are_known:
            return _not_in_list(MissingModel, place, choices, wrong, value)
    return None


def _not_converted(place: Place, value: Any, error: Exception) -> WorkflowError:
    kind, name = place.declared.kind, place.declared.name
    said = (
        "invalid_input_type",
        f"Failed to convert an input value to a {kind} value",
        f"{name}, {_words(value, str)}, {_clipped(str(error))}",
    )
    return place.fault(
        WrongInputType,
        f"{place.words} is {_words(value)}, which is no {kind}",
        said,
        input_config=place.declared.config,
        received_value=_short(value),
        exception_message=_clipped(str(error)),
    )


def _judge_range(place: Place, value: Any) -> WorkflowError | None:
    options, name = place.declared.options, place.declared.name
    about = {"input_config": place.declared.config, "received_value": _short(value)}
    try:
        if "min" in options and value < options["min"]:
            problem = f"{place.words} is {_words(value)}, and {options['min']} is the least"
            said = "value_smaller_than_min", f"Value {value} smaller than min of {options['min']}", name
            return place.fault(ValueOutOfRange, problem, said, **about)
        if "max" in options and value > options["max"]:
            problem = f"{place.words} is {_words(value)}, and {options['max']} is the most"
            said = "value_bigger_than_max", f"Value {value} bigger than max of {options['max']}", name
            return place.fault(ValueOutOfRange, problem, said, **about)
    except TypeError as error:
        said = "exception_during_validation", "Exception when validating node", str(error)
        problem = f"{place.words} is {_words(value)}, which has no order, and it must be in a range"
        return place.fault(WrongInputType, problem, said, exception_type="TypeError", traceback=[])
    return None


def _not_in_list(
    kind: type[WorkflowError], place: Place, choices: list[Any], wrong: list[Any], value: Any
) -> WorkflowError:
    is_long = len(choices) > LONGEST_LIST
    listed = f"(list of length {len(choices)})" if is_long else str(choices)
    said = (
        "value_not_in_list",
        "Value not in list",
        f"{place.declared.name}: {', '.join(_words(one) for one in wrong)} not in {listed}",
    )
    about = {"input_config": None if is_long else place.declared.config, "received_value": _short(value)}
    if kind is MissingModel:
        problem = f"{place.words} needs the model {_words(wrong[0], str)}, which this deployment does not have"
        return place.fault(kind, problem, said, _sync_hint(wrong[0], choices), **about)
    problem = f"{place.words} is {_words(wrong[0])}, which is none of its {len(choices)} choices"
    return place.fault(kind, problem, said, suggestion(wrong[0], choices) or _choices_hint(choices), **about)


def _sync_hint(name: Any, choices: list[Any]) -> str:
    near = suggestion(name, choices)
    sync = "`comfyui-modal models sync` brings the models that infra/models.toml names"
    return f"{near} Otherwise: {sync}" if near else sync


def _choices_hint(choices: list[Any]) -> str:
    return f"choose one of {', '.join(map(str, choices))}" if len(choices) <= LONGEST_LIST else ""


def _short(value: Any) -> Any:
    """The value as received; long texts are cut, for an error must not repeat a document."""
    if isinstance(value, str):
        return _clipped(value)
    return value if len(repr(value)) <= LONGEST_VALUE else _clipped(repr(value))


def _words(value: Any, how: Callable[[Any], str] = repr) -> str:
    return _clipped(how(value))


def _clipped(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"

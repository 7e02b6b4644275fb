"""The type, range and choices of a value in a graph, as a manifest has them, from the declaration of its class."""

import math
from collections.abc import Mapping
from typing import Any

from workflows.catalogue import Catalogue
from workflows.declarations import InputDeclaration, NodeDeclaration, unwrapped
from workflows.inventory import shown_choices
from workflows.manifest import InputType, NamedInput

MOST_CHOICES = 200
"""Choices of one input that a manifest lists. An input with more takes any text, which the engine checks."""
LARGEST_EXACT = 2**53 - 1
"""The largest whole number that every client's JSON keeps, and so the largest bound of a seed."""
LONGEST_DESCRIPTION = 200
SEEDS = ("seed", "noise_seed")
_MEDIA: dict[str, InputType] = {"image": "image", "video": "video", "audio": "audio"}


def declared_inputs(about: NodeDeclaration, given: Mapping[str, Any]) -> Mapping[str, InputDeclaration]:
    """Return the declared inputs of a node by name, and those that its dynamic combos and formats add."""
    # Once for a node: it may have a thousand inputs that nothing declares.
    parts = (part for one in about.inputs.values() if one.is_dynamic_combo for part in one.parts(given))
    return {**about.widgets(given), **{part.name: part for part in parts}, **about.inputs}


def typed_input(declared: InputDeclaration | None, catalogue: Catalogue, kind: str, value: Any) -> NamedInput | None:
    """Return the input with its type and limits, or None for a value that no manifest can set.

    It has no places yet. A bound that the value itself exceeds is left out, since a manifest must fit its graph.
    """
    if isinstance(value, list | dict) or value is None:
        return None
    if declared is None:
        return _by_value(value)
    described = _tooltip(declared)
    if declared.uploads:
        kind_of_file = _MEDIA.get(declared.uploads)
        return None if kind_of_file is None else _input(kind_of_file, described)
    if declared.is_combo:
        is_long = len(declared.choices or ()) > MOST_CHOICES
        return _choice(value, None if is_long else shown_choices(catalogue.declaration(kind), declared), described)
    match declared.kind:
        case "BOOLEAN" if isinstance(value, bool):
            return _input("boolean", described)
        case "INT" if _is_number(value) and isinstance(value, int):
            return _input("integer", described, **_bounds(declared, value))
        case "FLOAT" if _is_number(value):
            return _input("number", described, **_bounds(declared, value))
        case "STRING" | "COLOR" if isinstance(value, str):
            return _input("string", described)
    # A type of a pack or a dynamic one: another choice would need other inputs as well.
    return None


def _by_value(value: Any) -> NamedInput | None:
    """Return the type of a value whose class is not known."""
    if isinstance(value, bool):
        return _input("boolean")
    if isinstance(value, str):
        return _input("string")
    return _input("integer" if isinstance(value, int) else "number") if _is_number(value) else None


def _choice(value: Any, listed: list[Any] | None, described: str) -> NamedInput | None:
    if not isinstance(value, str):
        return None
    choices = [choice for choice in map(unwrapped, listed or ()) if isinstance(choice, str)]
    if not choices or len(choices) != len(listed or ()):
        return _input("string", described)
    return _input("choice", described, choices=tuple(dict.fromkeys([*choices, value])))


def _bounds(declared: InputDeclaration, value: float) -> dict[str, float]:
    """Return the declared range. A bound beyond LARGEST_EXACT stands for none, but for a seed, which a client draws."""
    low, high = _number(declared.options.get("min")), _number(declared.options.get("max"))
    found: dict[str, float] = {}
    if low is not None and -LARGEST_EXACT <= low <= value:
        found["min"] = low
    if high is not None and high > LARGEST_EXACT and declared.name in SEEDS:
        high = LARGEST_EXACT
    if high is not None and value <= high <= LARGEST_EXACT:
        found["max"] = high
    return found


def _number(value: Any) -> float | None:
    return value if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _tooltip(declared: InputDeclaration) -> str:
    text = declared.options.get("tooltip")
    return " ".join(text.split())[:LONGEST_DESCRIPTION] if isinstance(text, str) else ""


def _input(kind: InputType, described: str = "", **limits: Any) -> NamedInput:
    # `places` must not be empty; the caller replaces them.
    return NamedInput(type=kind, places=("",), description=described, **limits)

"""Whether a literal value fits its input, by ComfyUI's own rules and in its own words.

Values are converted before they are compared, as ComfyUI does: "5" passes for an INT, and everything for a STRING.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workflows.declarations import InputDeclaration, unwrapped
from workflows.errors import MissingMedium, MissingModel, ValueNotInList, ValueOutOfRange, WorkflowError, WrongInputType
from workflows.model_files import Listing, listing
from workflows.place import Place, clipped, short, words
from workflows.suggestions import suggestion

LONGEST_LIST = 20
"""ComfyUI repeats no longer list of choices in its errors."""
_CHECKED_UPLOADS = ("image", "video", "audio")
"""Their loaders look into the input folder itself; the one for 3D looks into a folder of its own."""
_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


@dataclass(frozen=True, slots=True)
class Files:
    """`are_known`: the loaders' lists of files can be believed. `brought` are the names that the job adds to the input
    folder; None if that is not known."""

    are_known: bool
    brought: frozenset[str] | None

    def lacks(self, name: Any) -> bool:
        """Surely not in the input folder. Nothing is sure of names with a folder or a mark (`x.png [output]`)."""
        if not self.are_known or self.brought is None:
            return False
        return not isinstance(name, str) or (name not in self.brought and "/" not in name and not name.endswith("]"))


def judge_value(place: Place, value: Any, files: Files) -> WorkflowError | None:
    """A literal. See `workflows.catalogue` for what is left to the engine."""
    declared = place.declared
    if declared.is_dynamic:
        return None
    value = unwrapped(value)
    try:
        if isinstance(declared.kind, str) and declared.kind in _CONVERSIONS:
            value = _CONVERSIONS[declared.kind](value)
    except (ValueError, TypeError, OverflowError) as error:
        return _not_converted(place, value, error)
    return (None if place.is_custom else _judge_range(place, value)) or _judge_choice(place, value, files)


def judge_listed(place: Place, value: Any) -> WorkflowError | None:
    """A literal that must be one of the choices, or convert to the number, whoever's class it is."""
    choices = place.declared.choices
    if choices is not None and not is_listed(unwrapped(value), choices):
        return _not_in_list(ValueNotInList, place, choices, [unwrapped(value)], value)
    try:
        as_listed(place.declared, value)
    except (ValueError, TypeError, OverflowError) as error:
        return _not_converted(place, value, error)
    return None


def as_listed(declared: InputDeclaration, value: Any) -> Any:
    """The value as the number, or the choice, that it is taken for. ValueError, TypeError or OverflowError if none."""
    value = unwrapped(value)
    if isinstance(declared.kind, str) and declared.is_number:
        return _CONVERSIONS[declared.kind](value)
    if not is_listed(value, declared.choices or []):
        raise ValueError("none of the choices")
    return value


def is_listed(value: Any, choices: list[Any]) -> bool:
    return any(value == choice and type(value) is type(choice) for choice in choices)


def _judge_choice(place: Place, value: Any, files: Files) -> WorkflowError | None:
    choices = place.declared.choices
    if choices is None:
        return None
    many = value if place.declared.options.get("multiselect") and isinstance(value, list) else [value]
    wrong = [one for one in many if one not in choices]
    if not wrong:
        return None
    match listing(place.declared, choices, wrong[0]):
        case Listing.CHOICES if not place.is_custom:
            return _not_in_list(ValueNotInList, place, choices, wrong, value)
        case Listing.MODELS if files.are_known:
            return _not_in_list(MissingModel, place, choices, wrong, value)
        case Listing.OTHER_FILES if files.lacks(wrong[0]) and not place.is_custom:
            if place.declared.uploads in _CHECKED_UPLOADS:
                return _no_medium(place, wrong[0])
            return None if choices else _not_in_list(ValueNotInList, place, choices, wrong, value)
    return None


def _no_medium(place: Place, name: str) -> WorkflowError:
    said = f"{place.declared.name} - Invalid {place.declared.uploads} file: {words(name, str)}"
    return place.fault(
        MissingMedium,
        f"{place.words} needs the file {words(name)}, which the job does not bring",
        ("custom_validation_failed", "Custom validation failed for node", said),
        "send it in `media` under this name, or as an input of type image_url or image_base64",
    )


def _not_converted(place: Place, value: Any, error: Exception) -> WorkflowError:
    kind, name = place.declared.kind, place.declared.name
    said = (
        "invalid_input_type",
        f"Failed to convert an input value to a {kind} value",
        f"{name}, {words(value, str)}, {clipped(str(error))}",
    )
    return place.fault(
        WrongInputType,
        f"{place.words} is {words(value)}, which is no {kind}",
        said,
        input_config=place.declared.config,
        received_value=short(value),
        exception_message=clipped(str(error)),
    )


def _judge_range(place: Place, value: Any) -> WorkflowError | None:
    options, name = place.declared.options, place.declared.name
    try:
        if "min" in options and value < options["min"]:
            said = "value_smaller_than_min", f"Value {value} smaller than min of {options['min']}", name
            problem = f"{place.words} is {words(value)}, and {options['min']} is the least"
        elif "max" in options and value > options["max"]:
            said = "value_bigger_than_max", f"Value {value} bigger than max of {options['max']}", name
            problem = f"{place.words} is {words(value)}, and {options['max']} is the most"
        else:
            return None
    except TypeError as error:
        said = "exception_during_validation", "Exception when validating node", str(error)
        problem = f"{place.words} is {words(value)}, which has no order, and it must be in a range"
        return place.fault(WrongInputType, problem, said, exception_type="TypeError", traceback=[])
    about = {"input_config": place.declared.config, "received_value": short(value)}
    return place.fault(ValueOutOfRange, problem, said, **about)


def _not_in_list(
    kind: type[WorkflowError], place: Place, choices: list[Any], wrong: list[Any], value: Any
) -> WorkflowError:
    is_long = len(choices) > LONGEST_LIST
    listed = f"(list of length {len(choices)})" if is_long else str(choices)
    said = (
        "value_not_in_list",
        "Value not in list",
        f"{place.declared.name}: {', '.join(words(one) for one in wrong)} not in {listed}",
    )
    about = {"input_config": None if is_long else place.declared.config, "received_value": short(value)}
    if kind is MissingModel:
        problem = f"{place.words} needs the model {words(wrong[0], str)}, which this deployment does not have"
        return place.fault(kind, problem, said, lambda: _sync_hint(wrong[0], choices), **about)
    problem = f"{place.words} is {words(wrong[0])}, which is none of its {len(choices)} choices"
    return place.fault(kind, problem, said, lambda: suggestion(wrong[0], choices) or _choices_hint(choices), **about)


def _sync_hint(name: Any, choices: list[Any]) -> str:
    near = suggestion(name, choices)
    sync = "`comfyui-modal models sync` brings the models that infra/models.toml names"
    return f"{near} Otherwise: {sync}" if near else sync


def _choices_hint(choices: list[Any]) -> str:
    return f"choose one of {', '.join(map(str, choices))}" if len(choices) <= LONGEST_LIST else ""

"""Checks a literal value against its input by ComfyUI's rules, and reports faults with ComfyUI's messages.

Values are converted before they are compared, as ComfyUI does: "5" is a valid INT, and every value a valid STRING.
"""

from collections.abc import Callable, Mapping
from typing import Any

from workflows.declarations import LONGEST_LIST, InputDeclaration, unwrapped
from workflows.errors import MissingModel, ValueNotInList, ValueOutOfRange, WorkflowError, WrongInputType
from workflows.input_files import Files, check_existence, check_file, missing_input_file
from workflows.location import Location, beginning, clipped, plain, short, words
from workflows.model_files import Listing, is_file, listing
from workflows.suggestions import suggestion

LONGEST_STRING = 4096
"""Characters of a list or an object that is converted to a STRING here. No file's path is longer, and only files are
looked for by a STRING."""


def _text(value: Any) -> str:
    return beginning(value, LONGEST_STRING) if isinstance(value, list | dict) else str(value)


_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": _text, "BOOLEAN": bool}


def check_value(location: Location, value: Any, files: Files) -> WorkflowError | None:
    """Check a literal. `workflows.catalogue` lists what is left to the engine."""
    declared = location.declared
    if declared.is_dynamic:
        return None
    value = unwrapped(value)
    try:
        # A kind may be a list of choices, which is unhashable and would raise a misleading TypeError here.
        if isinstance(declared.kind, str) and declared.kind in _CONVERSIONS:
            value = _CONVERSIONS[declared.kind](value)
    except (ValueError, TypeError, OverflowError) as error:
        return _not_converted(location, value, error)
    return (
        (_check_range(location, value) if location.is_compared else None)
        or check_file(location, value, files)
        or check_existence(location, value, files)
        or _check_choice(location, value, files)
    )


def check_listed(location: Location, value: Any) -> WorkflowError | None:
    """Check a literal that must be one of the choices or convert to a number, for custom classes as well."""
    choices = location.declared.choices
    if choices is not None and not is_listed(unwrapped(value), choices):
        return _not_in_list(ValueNotInList, location, choices, [unwrapped(value)], value)
    try:
        as_listed(location.declared, value)
    except (ValueError, TypeError, OverflowError) as error:
        return _not_converted(location, value, error)
    return None


def as_listed(declared: InputDeclaration, value: Any) -> Any:
    """Return the value as a number or a choice. Raises ValueError, TypeError or OverflowError if it is neither."""
    value = unwrapped(value)
    if isinstance(declared.kind, str) and declared.is_number:
        return _CONVERSIONS[declared.kind](value)
    if not is_listed(value, declared.choices or []):
        raise ValueError("none of the choices")
    return value


def is_listed(value: Any, choices: list[Any]) -> bool:
    # The types are compared as well, because in Python 1 == True == 1.0.
    return any(value == choice and type(value) is type(choice) for choice in choices)


def _check_choice(location: Location, value: Any, files: Files) -> WorkflowError | None:
    choices = location.declared.choices
    if choices is None:
        return None
    # Only a multiselect combo takes a list of choices; any other list was unwrapped and is one value.
    many = value if location.declared.options.get("multiselect") and isinstance(value, list) else [value]
    wrong = [one for one in many if not location.declared.offers(one)]
    if not wrong:
        return None
    match listing(location.declared, wrong[0]):
        # A custom node may list a changing folder as its choices, so these are trusted only as far as file lists are.
        case Listing.CHOICES if location.is_compared and (files.are_known or not location.is_custom):
            return _not_in_list(ValueNotInList, location, choices, wrong, value)
        case Listing.MODELS if files.are_known and not location.is_left_to_class:
            return _not_in_list(MissingModel, location, choices, wrong, value)
        case Listing.OTHER_FILES if location.is_compared and files.lacks(wrong[0]) and not _is_checked(location):
            if is_file(wrong[0]):  # media come from the input folder, so the job can bring the file
                return missing_input_file(location, wrong[0])
            return _not_in_list(ValueNotInList, location, choices, wrong, value)
    return None


def _is_checked(location: Location) -> bool:
    """Report whether `check_file` has accepted the value already."""
    return bool(location.declared.uploads) and not location.is_custom


def _not_converted(location: Location, value: Any, error: Exception) -> WorkflowError:
    kind, name = location.declared.kind, location.declared.name
    said = (
        "invalid_input_type",
        f"Failed to convert an input value to a {kind} value",
        f"{name}, {plain(value)}, {clipped(str(error))}",
    )
    return location.fault(
        WrongInputType,
        f"{location.words} is {words(value)}, which is no {kind}",
        said,
        input_config=location.declared.config,
        received_value=short(value),
        exception_message=clipped(str(error)),
    )


def _check_range(location: Location, value: Any) -> WorkflowError | None:
    options, name = location.declared.options, location.declared.name
    try:
        if "min" in options and value < options["min"]:
            said = "value_smaller_than_min", f"Value {plain(value)} smaller than min of {options['min']}", name
            problem = f"{location.words} is {words(value)}, and {options['min']} is the least"
        elif "max" in options and value > options["max"]:
            said = "value_bigger_than_max", f"Value {plain(value)} bigger than max of {options['max']}", name
            problem = f"{location.words} is {words(value)}, and {options['max']} is the most"
        else:
            return None
    except TypeError as error:  # ComfyUI's own comparison raises here as well, and its message is repeated
        said = "exception_during_validation", "Exception when validating node", str(error)
        problem = f"{location.words} is {words(value)}, which has no order, and it must be in a range"
        return location.fault(WrongInputType, problem, said, exception_type="TypeError", traceback=[])
    about = {"input_config": location.declared.config, "received_value": short(value)}
    return location.fault(ValueOutOfRange, problem, said, **about)


def _not_in_list(
    kind: type[WorkflowError], location: Location, choices: list[Any], wrong: list[Any], value: Any
) -> WorkflowError:
    is_long = len(choices) > LONGEST_LIST
    given = ", ".join([*map(words, wrong[:LONGEST_LIST]), *(["…"] if len(wrong) > LONGEST_LIST else [])])
    listed = f"(list of length {len(choices)})" if is_long else str(choices)
    said = (
        "value_not_in_list",
        "Value not in list",
        f"{location.declared.name}: {given} not in {listed}",
    )
    about = {"input_config": location.declared.config, "received_value": short(value)}
    if kind is MissingModel:
        problem = f"{location.words} needs the model {plain(wrong[0])}, which this deployment does not have"
        return location.fault(kind, problem, said, lambda: _sync_hint(wrong[0], choices), **about)
    problem = f"{location.words} is {words(wrong[0])}, which is none of its {len(choices)} choices"
    return location.fault(kind, problem, said, lambda: suggestion(wrong[0], choices) or _choices_hint(choices), **about)


def _sync_hint(name: Any, choices: list[Any]) -> str:
    near = suggestion(name, choices)
    sync = "`comfyui-modal models sync` brings the models that infra/models.toml names"
    return f"{near} Otherwise: {sync}" if near else sync


def _choices_hint(choices: list[Any]) -> str:
    return f"choose one of {', '.join(map(str, choices))}" if len(choices) <= LONGEST_LIST else ""

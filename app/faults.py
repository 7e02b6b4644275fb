"""Describes the invalid fields of a request body in plain words: what is there, what is wanted, what was meant.

The validation library's own messages name types of Python, so none of them is passed on.
"""

import difflib
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError

from app.fields import RequestBody
from app.problems import MOST_ERRORS, Problem
from workflows.errors import pointer
from workflows.suggestions import suggestion

SHOWN = 50
"""Characters of a client's own name or number that a message repeats."""
LONGEST_PART = 256
"""Characters of one name in a pointer; the rest is cut."""
MOST_CHOICES = 20
"""Choices that a message lists."""
MOST_LISTED = 6
"""Fields of a list's entries that a message names."""

_ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "api_prompt": ("workflow",),
    "base64": ("data",),
    "callback": ("webhook_url",),
    "callback_url": ("webhook_url",),
    "client_id": ("metadata",),
    "content": ("data",),
    "file": ("url", "media"),
    "file_name": ("filename", "name"),
    "filename": ("name",),
    "files": ("media",),
    "graph": ("workflow",),
    "id": ("node",),
    "image": ("url", "data", "media"),
    "image_url": ("url", "media"),
    "images": ("media",),
    "input": ("inputs", "field"),
    "input_files": ("media",),
    "labels": ("metadata",),
    "node_id": ("node",),
    "notify_url": ("webhook_url",),
    "output": ("workflow",),
    "overrides": ("inputs",),
    "param": ("field",),
    "params": ("inputs",),
    "prompt": ("workflow",),
    "size": ("size_bytes",),
    "src": ("url",),
    "tags": ("metadata",),
    "timeout": ("timeout_s",),
    "ttl": ("retain_days",),
    "upload": ("upload_id",),
    "uri": ("url",),
    "webhook": ("webhook_url", "url"),
    "webhook_events_filter": ("webhook_events",),
}
"""What other services, ComfyUI among them, call a field, and what it is called here."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_MARKS = ("[key]",)
"""Parts of a location that are the validation library's own: this one stands for the name of a member."""


def of_validation(error: ValidationError, model: type[BaseModel]) -> Problem:
    """Convert a validation error of this model into a problem that lists the invalid fields with their pointers."""
    found = [_fault(item, model) for item in error.errors(include_url=False)[:MOST_ERRORS]]
    # A misspelt name is reported before the field that is missing because of it.
    found.sort(key=lambda one: one["fault"] != "unknown")
    # A body without a workflow is most often one of another API, so this fault comes before all others.
    for one in found:
        if one["fault"] == "missing" and one["pointer"].endswith("/workflow"):
            return _no_workflow(one["pointer"], found)
    first, count = found[0], error.error_count()
    more = f" (and {count - 1} more)" if count > 1 else ""
    detail = f"{first['pointer']}: {first['detail']}" if first["pointer"] else first["detail"]
    return Problem(
        "validation-error", f"{detail}{more}", pointer=first["pointer"], hint=first.get("hint"), errors=found
    )


def _no_workflow(where: str, found: list[dict[str, str]]) -> Problem:
    root = where.removesuffix("workflow")
    meant = [one["pointer"].removeprefix(root) for one in found if one.get("hint") == _did_you_mean("workflow")]
    rename = f"rename `{meant[0]}` to `workflow`, or " if meant else ""
    form = '{"workflow": {"1": {"class_type": …, "inputs": {…}}, …}}'
    hint = f"{rename}send ComfyUI's API-format graph as {form}"
    return Problem("missing-workflow", "`workflow` is required", pointer=where, hint=hint, errors=found)


def _fault(item: Mapping[str, Any], model: type[BaseModel]) -> dict[str, str]:
    """Describe one invalid field. `expected` is the kind of value that belongs there."""
    location = [part for part in item["loc"] if part not in _MARKS]
    fault = _FAULTS.get(item["type"], "invalid")
    described = {"pointer": pointer(*(str(part)[:LONGEST_PART] for part in location)), "fault": fault}
    if fault == "unknown":
        parent = _kind_at(model, location[:-1])
        return described | {"detail": "there is no such field", "hint": _meant(str(location[-1]), parent, model)}
    kind = _kind_at(model, location)
    expected = _named(kind)
    if fault == "missing":
        detail = f"{location[-1]} is missing; it is {expected}"
    else:
        subject = "its name" if len(location) < len(item["loc"]) else "it"
        detail = _detail(item, subject, kind, expected)
    return described | {"detail": detail, "expected": expected}


_FAULTS = {"missing": "missing", "extra_forbidden": "unknown"}


def _detail(item: Mapping[str, Any], subject: str, kind: Any, expected: str) -> str:
    value, about = item["input"], item.get("ctx", {})
    if (say := _DETAILS.get(item["type"])) is not None:
        return f"{subject} {say(value, about)}"
    if item["type"] == "value_error":
        return str(about["error"])
    if get_origin(kind) is Literal and isinstance(value, str):
        hint = suggestion(value, get_args(kind))
        return f"{subject} is {value[:SHOWN]!r}, not {expected}" + (f"; {hint}" if hint else "")
    return f"{subject} is {_kind_of(value)}, not {expected}"


Say = Callable[[Any, Mapping[str, Any]], str]
_DETAILS: Mapping[str, Say] = {
    "string_too_short": lambda *_: "is empty",
    "too_short": lambda *_: "is empty",
    "string_too_long": lambda value, about: f"has {_length(value)}, at most {about['max_length']} are allowed",
    "too_long": lambda value, about: f"has {_length(value)}, at most {about['max_length']} are allowed",
    "greater_than_equal": lambda value, about: f"is {_number(value)}, at least {_number(about['ge'])} is needed",
    "greater_than": lambda value, about: f"is {_number(value)}, more than {_number(about['gt'])} is needed",
    "less_than_equal": lambda value, about: f"is {_number(value)}, at most {_number(about['le'])} is allowed",
    "finite_number": lambda *_: "is not a finite number",
}


def _length(value: Any) -> str:
    return f"{len(value)} {'entries' if isinstance(value, list) else 'characters'}"


def _number(value: Any) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)[:SHOWN]


def _kind_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return "a number"
        case float():
            return "a number" if value.is_integer() else "a number with a fraction"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"


def _named(kind: Any) -> str:
    """Name the kind of value that a field takes."""
    if get_origin(kind) is Literal:
        choices = list(map(str, get_args(kind)))
        more = f" or {len(choices) - MOST_CHOICES} others" if len(choices) > MOST_CHOICES else ""
        return f"one of {', '.join(choices[:MOST_CHOICES])}{more}" if len(choices) > 1 else choices[0]
    if get_origin(kind) is list:
        entry = _unwrapped(get_args(kind)[0])
        is_small = _is_model(entry) and len(entry.model_fields) <= MOST_LISTED
        return f"a list of objects with {', '.join(entry.model_fields)}" if is_small else "a list"
    if _is_model(kind):
        return str(kind.kind) if issubclass(kind, RequestBody) else "an object"
    return "an object" if get_origin(kind) is dict else _PLAIN.get(kind, "a value")


_PLAIN: Mapping[Any, str] = {
    str: "a string",
    SecretStr: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


def _kind_at(model: type[BaseModel], location: Sequence[str | int]) -> Any:
    """Return the annotation of the place in the body; None for a place whose kind is not declared."""
    kind: Any = model
    for part in location:
        if _is_model(kind):
            field = kind.model_fields.get(str(part))
            kind = None if field is None else _unwrapped(field.annotation)
        elif get_origin(kind) in (list, dict):
            kind = _unwrapped(get_args(kind)[-1])
        else:
            return None
    return kind


def _unwrapped(kind: Any) -> Any:
    """Return the annotation without its metadata, and without the None of an optional field."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        return _unwrapped(next(one for one in get_args(kind) if one is not type(None)))
    return kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _meant(name: str, parent: Any, model: type[BaseModel]) -> str:
    """Return the hint for an unknown field: a similar name, or the names that there are."""
    fields = list(parent.model_fields) if _is_model(parent) else []
    plain = _CAMEL.sub("_", name).replace("-", "_").lower()
    if plain in fields:
        return _did_you_mean(plain)
    # An input of a named workflow that stands next to `inputs` instead of in it.
    inputs = _kind_at(model, ("inputs",))
    if parent is model and _is_model(inputs) and name in inputs.model_fields:
        return f'put it into `inputs`: {{"inputs": {{"{name}": …}}}}'
    for known in _ELSEWHERE.get(plain, ()):
        if known in fields:
            return _did_you_mean(known)
    close = difflib.get_close_matches(plain, fields, n=1) if len(plain) <= LONGEST_PART else []
    return _did_you_mean(close[0]) if close else f"the fields here are {', '.join(fields)}"


def _did_you_mean(name: str) -> str:
    return f"did you mean {name}?"

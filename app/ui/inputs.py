"""Typed inputs as fields of a form, and the form's texts as values of their types."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.api.workflows import WorkflowInput
from app.problems import Problem
from app.ui.forms import Form
from workflows.errors import pointer
from workflows.manifest import NamedInput

INPUT_PREFIX, UPLOAD_PREFIX, FILENAME_PREFIX = "input.", "upload.", "filename."
MOST_SLIDER_STEPS = 10_000
"""A slider with more steps could not be set exactly; the field next to it can."""
LONG_TEXT = 60
"""A default text of more characters gets a field of several lines, as every prompt does."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that an earlier job of the workflow brought, and that the form can use again."""

    filename: str
    upload_id: str


def typed_values(inputs: Mapping[str, NamedInput], fields: Form) -> dict[str, Any]:
    """Return the form's values with the types of the inputs. An empty field keeps its default. Raises `Problem`."""
    found: dict[str, Any] = {}
    for name, named in inputs.items():
        text = fields.get(f"{INPUT_PREFIX}{name}", "")
        if named.is_file:
            if upload := fields.get(f"{UPLOAD_PREFIX}{name}"):
                filename = fields.get(f"{FILENAME_PREFIX}{name}")
                found[name] = {"upload_id": upload} | ({"filename": filename} if filename else {})
        elif named.type == "boolean":
            found[name] = text == "on"
        elif named.type in ("integer", "number"):
            if text:
                found[name] = _number(name, text, whole=named.type == "integer")
        elif text or named.type == "string":
            found[name] = text.replace("\r\n", "\n")  # as forms send line ends
    return found


def _number(name: str, text: str, *, whole: bool) -> int | float:
    try:
        if len(text) <= 40:
            return int(text) if whole else float(text)
    except ValueError:
        pass
    kind = "a whole number" if whole else "a number"
    raise Problem("validation-error", f"{name} is {text[:40]!r}, not {kind}", pointer=pointer("inputs", name))


def form_field(named: WorkflowInput, value: Any) -> dict[str, Any]:
    """Return what the template needs to show an input."""
    is_upload = isinstance(value, Upload)
    shown = named.default if value is None or is_upload else value
    return {
        "name": named.name,
        "label": named.name.replace("_", " ").capitalize(),
        "type": named.type,
        "description": named.description,
        "value": shown if shown is not None else "",
        "min": _plain(named.min),
        "max": _plain(named.max),
        "step": "1" if named.type == "integer" else "any",
        "choices": named.choices,
        "is_seed": "seed" in named.name and named.type == "integer",
        "is_long": named.type == "string" and ("prompt" in named.name or len(str(shown)) > LONG_TEXT),
        "has_slider": _has_slider(named),
        "upload": value if is_upload else None,
    }


def _has_slider(named: WorkflowInput) -> bool:
    if named.min is None or named.max is None or "seed" in named.name:
        return False
    return named.type == "number" or named.max - named.min <= MOST_SLIDER_STEPS


def _plain(limit: float | None) -> str:
    """Return a limit as a field of a form takes it: without the `.0` of a whole one."""
    if limit is None:
        return ""
    return str(int(limit)) if float(limit).is_integer() else str(limit)

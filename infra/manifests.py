"""Reads and validates manifests: TOML files that the operator writes."""

import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Manifest = TypeVar("Manifest", bound=BaseModel)


class BadManifest(ValueError):
    """The manifest is invalid. The message names the file and the field."""


ROOT = Path(__file__).parents[1]
"""The folder to which the paths of shipped manifests are relative. A path that somebody gives is made absolute."""


def read_manifest(path: Path, model: type[Manifest]) -> Manifest:
    """Read a manifest. Raise `BadManifest` for a file that is unreadable, no TOML, or does not fit the model."""
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise BadManifest(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, or no TOML, whose message has the line
        raise BadManifest(f"{path} is not TOML: {error}") from error
    try:
        return model.model_validate(document)
    except ValidationError as error:
        faults = [f"{path}{_place(fault, text, document)}: {_reason(fault)}" for fault in error.errors()]
        raise BadManifest("\n".join(faults)) from error


def _place(fault: ErrorDetails, text: str, document: dict[str, Any]) -> str:
    """Return the line, the entry with its name, and the field, as `, line 7: node "PACK": commit`."""
    table, *rest = fault["loc"]
    if not rest or not isinstance(rest[0], int):
        return f": {'.'.join(str(part) for part in fault['loc'])}"
    # The parser keeps no lines, but each entry begins with the name of its table in double brackets.
    begins = [number for number, line in enumerate(text.splitlines(), 1) if _is_header(line, str(table))]
    line = f", line {begins[rest[0]]}" if rest[0] < len(begins) else ""
    entry = document[str(table)][rest[0]]
    name = entry.get("name") or entry.get("file") if isinstance(entry, dict) else None
    fields = ".".join(str(part) for part in rest[1:])
    return f"{line}: {table} {json.dumps(name) if name else rest[0] + 1}" + (f": {fields}" if fields else "")


def _is_header(line: str, table: str) -> bool:
    return re.match(rf"\s*\[\[\s*{re.escape(table)}\s*\]\]", line) is not None


def _reason(fault: ErrorDetails) -> str:
    match fault["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "is no field of this manifest"
        case "string_pattern_mismatch":
            return f"{json.dumps(fault['input'])} does not match {fault['ctx']['pattern']}"
        case _:
            return fault["msg"].removeprefix("Value error, ")


def refuse_twins(path: Path, names: Iterable[str]) -> None:
    """Raise `BadManifest` for names that differ only in case, which some file systems do not distinguish."""
    folded = [name.casefold() for name in names]
    if twice := {name for name in folded if folded.count(name) > 1}:
        raise BadManifest(f"{path}: {', '.join(sorted(twice))} stands there twice")

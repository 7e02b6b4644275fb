"""Shipped workflows, by name. They need no model, so they run on the lite engine and on any ComfyUI."""

import json
from importlib.resources import files
from typing import Any


def names() -> tuple[str, ...]:
    """The shipped examples, sorted."""
    return tuple(
        sorted(entry.name.removesuffix(".json") for entry in files(__name__).iterdir() if entry.name.endswith(".json"))
    )


def load(name: str) -> dict[str, Any]:
    """The workflow in API format; KeyError for a name that is not shipped."""
    if name not in names():
        raise KeyError(name)
    document: dict[str, Any] = json.loads((files(__name__) / f"{name}.json").read_text())
    return document

"""Builds the `execution_error` message of an exception."""

import traceback
from collections.abc import Mapping, Sequence
from typing import Any


def failure(error: Exception, inputs: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, Any]:
    """Return the message's data. `inputs` are the failed node's values, `nodes` all nodes of the prompt's plan."""
    return {
        "exception_message": f"{error}\n",
        "exception_type": type_name(error),
        "traceback": traceback.format_tb(error.__traceback__),
        "current_inputs": {name: [_shown(value)] for name, value in inputs.items()},
        "current_outputs": sorted(nodes),
    }


def type_name(error: Exception) -> str:
    """Return an exception's type as in ComfyUI: built-in ones by their name, others with their module."""
    kind = type(error)
    if kind.__name__ == "OutOfMemoryError":
        return "torch.OutOfMemoryError"
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _shown(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else str(value)

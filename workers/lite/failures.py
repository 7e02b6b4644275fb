"""What an `execution_error` says of an exception."""

import traceback
from collections.abc import Mapping, Sequence
from typing import Any


def failure(error: Exception, inputs: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, Any]:
    """`inputs` are the failed node's values, `nodes` all that the prompt would have run."""
    return {
        "exception_message": f"{error}\n",
        "exception_type": type_name(error),
        "traceback": traceback.format_tb(error.__traceback__),
        "current_inputs": {name: [_shown(value)] for name, value in inputs.items()},
        "current_outputs": sorted(nodes),
    }


def type_name(error: Exception) -> str:
    """Built-in exceptions by their bare name, others with their module, as ComfyUI writes them."""
    kind = type(error)
    if kind.__name__ == "OutOfMemoryError":
        return "torch.OutOfMemoryError"
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _shown(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else str(value)

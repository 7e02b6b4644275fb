"""Values from nodes as strict JSON in UTF-8 can hold them: nothing that a node says keeps a record from being written.

Python reads bare NaN and lone surrogates from JSON, and neither can be written again: a file name that is not UTF-8
reaches a node's message as a surrogate.
"""

import math
from collections.abc import Mapping
from typing import Any


def strict_text(text: str) -> str:
    """Lone surrogates become `?`."""
    return text.encode(errors="replace").decode()


def strict_json(value: Any) -> Any:
    """NaN and infinities become null, and every string is strict."""
    if isinstance(value, str):
        return strict_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {strict_text(str(key)): strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    return value

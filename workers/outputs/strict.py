"""Converts values of nodes to strict JSON in UTF-8, so that no value prevents the write of a record.

Python's JSON parser accepts bare NaN and lone surrogates, neither of which strict JSON allows. A file name that is not
UTF-8 appears in a node's message with surrogates.
"""

import math
from collections.abc import Mapping
from typing import Any


def strict_text(text: str) -> str:
    """Replace lone surrogates by `?`."""
    return text.encode(errors="replace").decode()


def strict_json(value: Any) -> Any:
    """Replace NaN and infinities by null, and make every string strict."""
    if isinstance(value, str):
        return strict_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {strict_text(str(key)): strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    return value

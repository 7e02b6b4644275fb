"""Whole numbers from outside: one rule for query, path and body, with bounds that hold before anything is computed.

Python's own `int` takes `007`, `1_000`, `+5`, ` 5 ` and the digits of every script, and refuses more than 4,300 digits
with another error; each of these has reached a limit check in disguise, or crashed one.
"""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

MAX_DIGITS = 15
"""Of a number in text: far beyond every limit, and exact as a double."""
_CANONICAL = re.compile(rf"(0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})", re.ASCII)


def whole(text: str, low: int, high: int) -> int:
    """The number that `text` writes in the one usual way, without sign and leading zeros; ValueError otherwise."""
    if not _CANONICAL.fullmatch(text) or not low <= int(text) <= high:
        raise ValueError(f"{text[:50]!r} is not a whole number from {low} to {high}")
    return int(text)


def _json_whole(value: object) -> object:
    """A JSON number without a fraction, 60.0 included, as other languages write it. A text or a truth value is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | None):
        raise ValueError("not a whole number")  # noqa: TRY004  pydantic reports a ValueError as the field's fault
    return value


def _json_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError("not a number")  # noqa: TRY004  as above
    return value


Whole = Annotated[int, BeforeValidator(_json_whole)]
"""For fields of request bodies; bounds are the field's own."""
Number = Annotated[float, BeforeValidator(_json_number), Field(allow_inf_nan=False)]

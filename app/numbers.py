"""Parses whole numbers from query, path and body by one strict rule, with bounds that apply before any arithmetic.

Python's `int` accepts `007`, `1_000`, `+5`, ` 5 ` and the digits of every script, and raises a different error for more
than 4,300 digits. Each of these has bypassed a limit check or crashed one.
"""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

MAX_DIGITS = 15
"""Digits of a number in text: more than any limit needs, and still exact as a double."""
_CANONICAL = re.compile(rf"(0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})", re.ASCII)


def whole(text: str, low: int, high: int) -> int:
    """Parse ASCII digits without sign and leading zeros. Raises ValueError for other text or beyond the bounds."""
    # The pattern comes first: it bounds the digits that `int` converts.
    if not _CANONICAL.fullmatch(text) or not low <= int(text) <= high:
        raise ValueError(f"{text[:50]!r} is not a whole number from {low} to {high}")
    return int(text)


def _json_whole(value: object) -> object:
    """Accept a JSON number without a fraction, including 60.0, as some languages write it. Raises ValueError."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | None):
        raise ValueError("it is not a whole number")  # noqa: TRY004  pydantic reports a ValueError as the field's fault
    return value


def _json_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError("it is not a number")  # noqa: TRY004  as above
    return value


Whole = Annotated[int, BeforeValidator(_json_whole)]
"""A whole number in a request body. The field sets its own bounds."""
Number = Annotated[float, BeforeValidator(_json_number), Field(allow_inf_nan=False)]

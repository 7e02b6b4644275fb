"""Parses JSON of an API that may be hostile, in bounded memory."""

import json
from typing import Any

MAX_ANSWER_WEIGHT = 64 * 1024 * 1024
"""The limit of the weight of an answer's JSON. The API's largest weigh a few MiB."""


def parsed(text: bytes, most: int) -> Any:
    """Return the value of a JSON text whose weight is at most `most`. Raises ValueError for any other text.

    The weight is its bytes, 32 for each list and object, and 16 for each further value: parsed, lists in lists take
    70 times their text, and numbers up to 16 times.
    """
    if len(text) + 32 * (text.count(b"[") + text.count(b"{")) + 16 * text.count(b",") > most:
        raise ValueError("its JSON has too many values")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None

"""Parses the JSON of an engine, which code of custom nodes may write, into values that strict JSON can contain.

Python's parser accepts bare NaN and Infinity, numbers beyond a double, and lone surrogates: as escapes in any text, and
as raw bytes if it decodes these itself. A record or an answer with one of them could not be written.
"""

import json
import math
import re
from typing import Any

from workflows.json_weight import weight

MAX_ENGINE_WEIGHT = 32 * 1024 * 1024
"""Default maximum `weight` of a text, and so of its bytes, since lists in lists take 70 times their bytes of memory."""

LONGEST_INTEGER = 4_300
"""Maximum characters of an integer: Python raises ValueError for a longer one, as if the whole text were not JSON."""
_ESCAPES = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)
"""The escapes of a JSON text; the group is a surrogate without its other half."""


class TooHeavy(ValueError):
    """A text exceeds its maximum weight."""


def parsed(content: bytes | bytearray | str, *, unfit: float | None = None, max_weight: int = MAX_ENGINE_WEIGHT) -> Any:
    """Parse JSON. NaN, infinities and numbers beyond these limits become `unfit`; invalid Unicode becomes U+FFFD.

    Raises ValueError for a text that is not JSON, `TooHeavy` for a large one, RecursionError for one of great depth.
    """
    if weight(content) > max_weight:
        raise TooHeavy(f"it weighs more than {max_weight} bytes")
    text = content if isinstance(content, str) else content.decode(errors="replace")
    # Python lists a file name that is not UTF-8 with lone surrogates, and ComfyUI sends them as escapes.
    if "\\ud" in text or "\\uD" in text:
        text = _ESCAPES.sub(lambda found: "\\ufffd" if found[1] else found[0], text)

    def finite(text: str) -> float | None:
        number = float(text)
        return number if math.isfinite(number) else unfit

    def integer(text: str) -> float | None:
        return int(text) if len(text) <= LONGEST_INTEGER else unfit

    return json.loads(text, parse_constant=lambda _: unfit, parse_float=finite, parse_int=integer)

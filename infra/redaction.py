"""What must not stand in a log, taken out of each line before it is written, whoever wrote it.

A net, not the rule: nobody here logs secrets on purpose. It catches what an error of a library carries along: a
presigned URL's query, a header, a key. A line is JSON when it comes here: secrets are hidden as they are, and as JSON
writes them.
"""

import json
import re
from collections.abc import Sequence

HIDDEN = "…"
SHORTEST_SECRET = 8
"""A shorter value would be found in ordinary words."""

_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"([?&]X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"'\\]+",
        r"(\b[Bb]earer )[^\s\"'\\,]+",
        r"(\bck_[a-z]+_(?:[A-Za-z0-9]{8}_)?)[A-Za-z0-9_-]{8,}",
        r"(\bwhsec_|\bwhsk_)[A-Za-z0-9+/=_-]+",
        r"(\bhf_)[A-Za-z0-9]{20,}",
    )
)
"""What comes before, which stays: the id of a key tells which one it was."""


class Redactor:
    """`secrets` are hidden wherever they stand, besides everything that looks like a key or a signature."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        long = [secret for secret in secrets if len(secret) >= SHORTEST_SECRET]
        escaped = [json.dumps(secret, ensure_ascii=plain)[1:-1] for secret in long for plain in (True, False)]
        known = sorted({*long, *escaped}, key=len, reverse=True)
        self._known = re.compile("|".join(re.escape(secret) for secret in known)) if known else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\1{HIDDEN}", text)
        return text

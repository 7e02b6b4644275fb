"""Redaction of secrets in every log line before it is written.

It is a safety net: the code does not log secrets on purpose. Errors of libraries may contain them, in a presigned URL's
query, a header or a key. A line is JSON already, so secrets are redacted both as they are and as JSON escapes them.
"""

import json
import re
from collections.abc import Sequence

HIDDEN = "…"
SHORTEST_SECRET = 8
"""Shorter values are not redacted, because they occur in ordinary words."""

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
"""Patterns of secrets. Their first group stays in the log: the id of a key identifies it."""


class Redactor:
    """Redacts `secrets`, and every text with the form of a key or a signature."""

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

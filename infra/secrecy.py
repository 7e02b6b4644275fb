"""Keeps the secrets of this process out of its log, and from other processes of its user, above all from the engine.

Redaction is a safety net: the code does not log secrets on purpose. Errors of libraries may contain them, in a
presigned URL's query, a header or a key.

A graph that can read any file could read `/proc/<pid>/environ` of the process that started the engine, with the
bucket's credentials. Three measures prevent that, none of which exists on every system:
- The memory behind this file is overwritten where a variable's name suggests a secret (Linux).
- The process is made non-dumpable, so that only a process that may trace any other can read its memory (Linux).
- `workers.supervise` removes the privileges with which an engine of root could do that.
"""

import ctypes
import json
import re
import sys
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
_PR_SET_DUMPABLE = 4
"""The option of prctl(2)."""
_SECRET = re.compile(r"(COMFYUI_MODAL_|AWS_).*|.*(KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL).*", re.IGNORECASE)


class Redactor:
    """Redacts `secrets`, and every text with the form of a key or a signature."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        long = [secret for secret in secrets if len(secret) >= SHORTEST_SECRET]
        # A line of the log is JSON already when it is redacted.
        escaped = [json.dumps(secret, ensure_ascii=plain)[1:-1] for secret in long for plain in (True, False)]
        # Longest first: one secret may be the beginning of another, whose end would stay in the text.
        known = sorted({*long, *escaped}, key=len, reverse=True)
        self._known = re.compile("|".join(re.escape(secret) for secret in known)) if known else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\1{HIDDEN}", text)
        return text


def keep_secrets() -> None:
    """Hide the secrets. Call it after the settings have been read.

    A child process that is started without an explicit environment inherits the overwritten values.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    _overwrite_environment(libc)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # only a process that may trace any other can read this one's memory now


def _overwrite_environment(libc: ctypes.CDLL) -> None:
    block = ctypes.POINTER(ctypes.c_void_p).in_dll(libc, "environ")
    index = 0
    while (address := block[index]) is not None:
        name, equals, value = ctypes.string_at(address).partition(b"=")
        if _SECRET.fullmatch(name.decode(errors="replace")):
            # `os.environ` has copies, which stay, because libraries read them there later.
            ctypes.memset(address + len(name) + len(equals), ord("x"), len(value))
        index += 1

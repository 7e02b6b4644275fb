"""Request bodies of hundreds of megabytes in constant memory.

JSON is scanned as it arrives. A string longer than SPOOL_THRESHOLD, such as a medium in base64, goes to a temporary
file, and a short placeholder takes its place. The remaining document is small and parsed as usual.

Callers pass the places where they accept a placeholder to `restored`, which puts all other strings back.
"""

from app.body._document import PARSED, Body, Place, TextLimits
from app.body._scanner import (
    MAX_DEPTH,
    MAX_SMALL_JSON,
    MAX_VALUES,
    SPOOL_THRESHOLD,
    BadBase64,
    BadText,
    BodyTooLarge,
    TextTooLong,
)
from app.body._spooled import SpooledText

__all__ = [
    "MAX_DEPTH",
    "MAX_SMALL_JSON",
    "MAX_VALUES",
    "PARSED",
    "SPOOL_THRESHOLD",
    "BadBase64",
    "BadText",
    "Body",
    "BodyTooLarge",
    "Place",
    "SpooledText",
    "TextLimits",
    "TextTooLong",
]

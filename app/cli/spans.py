"""Parses the time spans of command arguments: `7d`, `12h`, `30m`."""

import re
from datetime import timedelta

_SPAN = re.compile(r"(\d{1,5})([dhm])", re.ASCII)
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def span(text: str) -> timedelta | None:
    """Parse a time span, or return None for any other text."""
    match = _SPAN.fullmatch(text)
    return None if match is None else timedelta(**{_UNITS[match[2]]: int(match[1])})

"""Times in keys: integer milliseconds since 1970, since a float does not round-trip."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
END_OF_TIME_MS = 9_999_999_999_999
"""An inverted time is subtracted from this, so that key order is newest first."""


def ms_of(moment: datetime) -> int:
    return (moment - _EPOCH) // _MS


def ms_up_of(moment: datetime) -> int:
    """Return the time in milliseconds, rounded up."""
    return -((_EPOCH - moment) // _MS)


def time_of(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)

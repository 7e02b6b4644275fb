"""Times in keys: whole milliseconds since 1970, in integers, since a float would not come back as the same time."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
END_OF_TIME_MS = 9_999_999_999_999
"""An inverted time is subtracted from this, so that key order is newest first."""


def ms_of(moment: datetime) -> int:
    return (moment - _EPOCH) // _MS


def ms_up_of(moment: datetime) -> int:
    """Rounded up."""
    return -((_EPOCH - moment) // _MS)


def time_of(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)

"""Compares this machine's clock with the bucket's.

Processes on several machines share leases, and each compares them with its own clock. All of them can read the bucket's
clock: it is the `Date` of the answer to a LIST.
"""

import asyncio
import logging
from datetime import timedelta

from storage import keys
from storage.bucket.objects import KeyPage, ObjectStore
from storage.clock import Clock
from storage.errors import ClockWrong, StorageError

logger = logging.getLogger(__name__)

TOLERANCE = 0.25
"""The largest tolerated difference, as a fraction of a lease. A running job's lease is renewed long before that."""
CHECK_S = 5.0
"""Time for a check at a process's start; a bucket that does not answer must not delay it."""
SET_CLOCK = "set the clock of this machine, for example by NTP"
_RESOLUTION = timedelta(seconds=1)


async def dated_list(
    objects: ObjectStore, clock: Clock, prefix: str, *, after: str = "", limit: int = 1000
) -> tuple[KeyPage, float | None]:
    """List a page. Return it with the seconds by which this machine's clock is ahead of the bucket's.

    They are negative if it is behind, and None if the bucket names no time.
    """
    asked_at = clock.now()
    page = await objects.list(prefix, after=after, limit=limit)
    if page.answered_at is None:
        return page, None
    # The bucket answered at some time in between, so a slow request, or a process that was paused, differs by nothing.
    ahead, behind = asked_at - (page.answered_at + _RESOLUTION), page.answered_at - clock.now()
    return page, max(0.0, ahead.total_seconds()) - max(0.0, behind.total_seconds())


async def seconds_ahead(objects: ObjectStore, clock: Clock) -> float | None:
    """Return the seconds by which this machine's clock is ahead of the bucket's, as `dated_list` does. One LIST."""
    _, ahead_s = await dated_list(objects, clock, keys.PROBES, limit=1)
    return ahead_s


def clock_fault(ahead_s: float | None, lease_s: float) -> str | None:
    """Return what is wrong with a clock that is too far ahead or behind; None if it is right or not known."""
    allowed_s = TOLERANCE * lease_s
    if ahead_s is None or abs(ahead_s) <= allowed_s:
        return None
    side = "ahead of" if ahead_s > 0 else "behind"
    return f"this machine's clock is at least {abs(ahead_s):.0f} s {side} the bucket's, more than {allowed_s:g} s"


async def require_right_clock(objects: ObjectStore, clock: Clock, lease_s: float) -> None:
    """Raise `ClockWrong` if this machine's clock is wrong. A failure of the bucket is only logged."""
    try:
        async with asyncio.timeout(CHECK_S):
            ahead_s = await seconds_ahead(objects, clock)
    except ClockWrong:
        raise
    except (StorageError, TimeoutError) as error:
        logger.warning("this machine's clock was not compared with the bucket's: %r", error)
        return
    if (fault := clock_fault(ahead_s, lease_s)) is not None:
        raise ClockWrong(f"{fault}: {SET_CLOCK}")


async def warn_of_wrong_clock(objects: ObjectStore, clock: Clock, lease_s: float) -> None:
    """Log a warning if this machine's clock is wrong."""
    try:
        await require_right_clock(objects, clock, lease_s)
    except ClockWrong as error:
        logger.warning("%s", error)

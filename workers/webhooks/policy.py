"""Decides the result of an attempt: delivered, retried, or given up. Pure.

The receiver's `webhook-delivery` header takes precedence over its status. Every response other than 2xx is retried,
except those that rule out a success. The schedule spans about 76 hours.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Literal

from workers.webhooks.post import Answer

SCHEDULE = (
    timedelta(seconds=5),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""The delays between attempts; after the last attempt the event is given up."""

PROGRESS_TRIES = 2
"""Attempts at a progress event, which is soon outdated."""

JITTER = 0.2
LONGEST_RETRY_AFTER = timedelta(hours=24)

_NEVER = {413: "the receiver finds it too large", 415: "the receiver does not take this type"}


@dataclass(frozen=True, slots=True)
class Decision:
    """`retry_at` is set with `again`, `reason` with `dead`. `disable` is the reason to disable the receiver."""

    what: Literal["delivered", "again", "dead"]
    retry_at: datetime | None = None
    reason: str | None = None
    disable: str | None = None
    is_exhausted: bool = False
    """The last attempt of the schedule failed."""


def decide(
    answer: Answer, *, event_id: str, tries: int, is_progress: bool, now: datetime, scale: float = 1.0
) -> Decision:
    """Decide on a response. `tries` includes this attempt; `scale` multiplies the schedule, not a Retry-After."""
    if answer.wants_no_more or answer.status == 410:
        reason = "the receiver answered 410" if answer.status == 410 else "the receiver wants no more events"
        return Decision("dead", reason=reason, disable=reason)
    # Before 2xx, since a receiver that always returns 204 can request this only by its header.
    if answer.aborts:
        return Decision("dead", reason="the receiver does not want this event")
    if answer.status is not None and 200 <= answer.status < 300:
        return Decision("delivered")
    if answer.is_refused:
        return Decision("dead", reason=answer.error)
    if answer.status in _NEVER:
        return Decision("dead", reason=f"{_NEVER[answer.status]} (it answered {answer.status})")
    if tries >= (PROGRESS_TRIES if is_progress else len(SCHEDULE) + 1):
        return Decision("dead", reason=f"{tries} attempts failed", is_exhausted=True)
    return Decision("again", retry_at=now + max(scale * delay(event_id, tries), _asked(answer.retry_after, now)))


def delay(event_id: str, tries: int) -> timedelta:
    """Return the delay after `tries` attempts, deterministic per event and attempt, so that a repeat gives the same."""
    spread = random.Random(f"{event_id}:{tries}").uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  guards nothing
    return SCHEDULE[min(tries, len(SCHEDULE)) - 1] * spread


def _asked(retry_after: str | None, now: datetime) -> timedelta:
    """Parse Retry-After in seconds or as a date; zero if it is neither."""
    if retry_after is None:
        return timedelta()
    text = retry_after.strip()
    try:
        if text.isascii() and text.isdecimal():
            # Bounded, because an overflow would count as no Retry-After.
            wanted = timedelta(seconds=min(int(text[:9]), 10**8))
        else:
            moment = parsedate_to_datetime(text)
            wanted = moment - now if moment.tzinfo else timedelta()
    except (ValueError, TypeError, OverflowError):
        return timedelta()
    return min(max(wanted, timedelta()), LONGEST_RETRY_AFTER)

"""What follows from an attempt: delivered, tried again, or given up. Pure.

The receiver's `webhook-delivery` header counts before its status. Every answer but 2xx is tried again, save for those
that say it is of no use. The schedule spans about 76 hours.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Literal

from storage.webhooks.post import Answer

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
"""Between one attempt and the next; after the last one the event is given up."""

PROGRESS_TRIES = 2
"""A progress event is soon outdated."""

JITTER = 0.2
LONGEST_RETRY_AFTER = timedelta(hours=24)

_NEVER = {413: "the receiver finds it too large", 415: "the receiver does not take this type"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`retry_at` only with `again`; `reason` only with `dead`; `disable`: the receiver wants no more events at all."""

    what: Literal["delivered", "again", "dead"]
    retry_at: datetime | None = None
    reason: str | None = None
    disable: str | None = None
    is_exhausted: bool = False
    """The last attempt of the schedule failed."""


def judge(
    answer: Answer, *, event_id: str, tries: int, is_progress: bool, now: datetime, scale: float = 1.0
) -> Verdict:
    """`tries` counts this attempt; `scale` multiplies the schedule, not what the receiver asks for."""
    if answer.wants_no_more or answer.status == 410:
        reason = "the receiver answered 410" if answer.status == 410 else "the receiver wants no more events"
        return Verdict("dead", reason=reason, disable=reason)
    # Before 2xx: a receiver that answers everything with 204 asks for this by its header alone.
    if answer.aborts:
        return Verdict("dead", reason="the receiver does not want this event")
    if answer.status is not None and 200 <= answer.status < 300:
        return Verdict("delivered")
    if answer.is_refused:
        return Verdict("dead", reason=answer.error)
    if answer.status in _NEVER:
        return Verdict("dead", reason=f"{_NEVER[answer.status]} (it answered {answer.status})")
    if tries >= (PROGRESS_TRIES if is_progress else len(SCHEDULE) + 1):
        return Verdict("dead", reason=f"{tries} attempts failed", is_exhausted=True)
    return Verdict("again", retry_at=now + max(scale * delay(event_id, tries), _asked(answer.retry_after, now)))


def delay(event_id: str, tries: int) -> timedelta:
    """After so many attempts; the same for one event and attempt, so that nothing shifts when it is computed again."""
    spread = random.Random(f"{event_id}:{tries}").uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  guards nothing
    return SCHEDULE[min(tries, len(SCHEDULE)) - 1] * spread


def _asked(retry_after: str | None, now: datetime) -> timedelta:
    """Retry-After, in seconds or as a date; nothing for what is neither."""
    if retry_after is None:
        return timedelta()
    text = retry_after.strip()
    try:
        if text.isascii() and text.isdecimal():
            wish = timedelta(seconds=min(int(text[:9]), 10**8))
        else:
            moment = parsedate_to_datetime(text)
            wish = moment - now if moment.tzinfo else timedelta()
    except (ValueError, TypeError, OverflowError):
        return timedelta()
    return min(max(wish, timedelta()), LONGEST_RETRY_AFTER)

"""The attempts that a delivery keeps."""

import json
from datetime import UTC, datetime

from storage.webhooks.deliveries import MOST_ATTEMPTS, OLDER_EXCERPT, Delivery, DeliveryAttempt
from workers.webhooks.post import EXCERPT_BYTES, _text

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def attempt(number: int, excerpt: str = "x") -> DeliveryAttempt:
    return DeliveryAttempt(number=number, at=NOW, status=200, duration_ms=1, error=None, excerpt=excerpt)


def new_delivery() -> Delivery:
    return Delivery(
        tenant="acme", kind="test", owner_id="one", sequence=1, type="test", url="http://receiver/", next_at=NOW
    )


def test_the_number_of_kept_attempts_is_bounded() -> None:
    """Only the newest attempts are kept, their numbers continue, and a replay restarts the schedule."""
    delivery = new_delivery()
    for _ in range(3 * MOST_ATTEMPTS):
        delivery = delivery.replayed(NOW)
        assert delivery.tries == 0
        delivery = delivery.delivered(attempt(delivery.attempted + 1))
        assert delivery.tries == 1
    numbers = [one.number for one in delivery.attempts]
    assert numbers == list(range(2 * MOST_ATTEMPTS + 1, 3 * MOST_ATTEMPTS + 1))


def test_an_excerpt_is_bounded_as_text() -> None:
    """An excerpt stays within its limit after invalid UTF-8 is replaced, which makes it longer."""
    assert len(_text(b"\xff" * EXCERPT_BYTES).encode()) <= EXCERPT_BYTES
    assert _text("ü".encode() * 10) == "ü" * 10


def test_an_excerpt_is_bounded_as_json() -> None:
    """Control characters, which JSON escapes to six bytes each, are removed from an excerpt."""
    assert len(json.dumps(_text(b"\x01" * EXCERPT_BYTES), ensure_ascii=False).encode()) <= EXCERPT_BYTES + 2
    assert _text(b"a\tb\r\nc") == "a\tb\r\nc"


def test_older_attempts_keep_shorter_excerpts() -> None:
    """The newest attempt keeps its whole excerpt, and older attempts keep a short one."""
    delivery, long = new_delivery(), "x" * EXCERPT_BYTES
    for _ in range(MOST_ATTEMPTS):
        delivery = delivery.delivered(attempt(delivery.attempted + 1, long))
    *older, newest = (one.excerpt for one in delivery.attempts)
    assert newest == long
    assert {len(excerpt or "") for excerpt in older} == {OLDER_EXCERPT}

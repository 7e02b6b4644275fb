"""What follows from a receiver's response."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.webhooks.policy import JITTER, LONGEST_RETRY_AFTER, SCHEDULE, Decision, decide, delay
from workers.webhooks.post import Answer

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def decision(answer: Answer, *, tries: int = 1, is_progress: bool = False) -> Decision:
    return decide(answer, event_id="evt_1", tries=tries, is_progress=is_progress, now=NOW)


def wait(answer: Answer, *, tries: int = 1) -> timedelta:
    retry_at = decision(answer, tries=tries).retry_at
    assert retry_at is not None
    return retry_at - NOW


def test_the_schedule_spans_three_days() -> None:
    """The retry schedule spans about 76 hours, which covers a weekend."""
    assert timedelta(hours=75) < sum(SCHEDULE, timedelta()) < timedelta(hours=77)


@given(st.text(), st.integers(1, len(SCHEDULE)))
def test_waits_have_deterministic_jitter(event_id: str, tries: int) -> None:
    """A wait differs from the schedule by at most a fifth, and depends on the event and the attempt alone."""
    waited, planned = delay(event_id, tries), SCHEDULE[tries - 1]
    assert planned * (1 - JITTER) <= waited <= planned * (1 + JITTER)
    assert waited == delay(event_id, tries)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_2xx_is_delivered(status: int) -> None:
    """Any 2xx status delivers the event."""
    assert decision(Answer(status, 5)) == Decision("delivered")


@pytest.mark.parametrize("status", [None, 100, 301, 302, 400, 401, 404, 408, 409, 422, 429, 500, 503])
def test_other_responses_are_retried(status: int | None) -> None:
    """No response, redirects, refusals and failures are retried until the schedule ends."""
    for tries in range(1, len(SCHEDULE) + 1):
        assert wait(Answer(status, 5), tries=tries) == delay("evt_1", tries)
    last = decision(Answer(status, 5), tries=len(SCHEDULE) + 1)
    assert (last.what, last.is_exhausted, last.disable) == ("dead", True, None)


@pytest.mark.parametrize(
    "answer", [Answer(410, 5), Answer(200, 5, wants_no_more=True), Answer(None, 5, wants_no_more=True)]
)
def test_a_receiver_can_end_its_webhooks(answer: Answer) -> None:
    """Status 410 or the header that ends webhooks disables the endpoint."""
    ended = decision(answer)
    assert ended.what == "dead"
    assert ended.disable == ended.reason is not None


@pytest.mark.parametrize(
    "answer",
    [
        Answer(413, 5),
        Answer(415, 5),
        Answer(500, 5, aborts=True),
        Answer(204, 5, aborts=True),
        Answer(None, 0, "no", is_refused=True),
    ],
)
def test_an_unacceptable_event_is_not_retried(answer: Answer) -> None:
    """An event that the receiver cannot accept is dead at once, and the endpoint stays enabled."""
    ended = decision(answer)
    assert (ended.what, ended.disable, ended.is_exhausted) == ("dead", None, False)
    assert ended.reason


def test_progress_is_tried_twice() -> None:
    """A progress event, which is soon outdated, is tried twice."""
    assert decision(Answer(500, 5), is_progress=True).what == "again"
    assert decision(Answer(500, 5), tries=2, is_progress=True).what == "dead"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        (" 120 ", 120),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        ("999999999999", LONGEST_RETRY_AFTER.total_seconds()),
        (format_datetime(NOW + timedelta(days=400), usegmt=True), LONGEST_RETRY_AFTER.total_seconds()),
    ],
)
def test_retry_after_is_obeyed(text: str, seconds: float) -> None:
    """Retry-After in seconds or as a date is obeyed, up to a day."""
    assert wait(Answer(429, 5, retry_after=text)) == timedelta(seconds=seconds)


@given(
    st.one_of(st.text(), st.sampled_from(["-5", "1e9", "٣", "Mon, 23 Nov 2026 11:00:00 GMT", "Mon, 99 Nov 2026", "0"]))
)
def test_an_invalid_retry_after_is_ignored(text: str) -> None:
    """With an invalid Retry-After the wait stays between the schedule's wait and a bit more than a day."""
    waited = wait(Answer(503, 5, retry_after=text))
    assert delay("evt_1", 1) <= waited <= LONGEST_RETRY_AFTER

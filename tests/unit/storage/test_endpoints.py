"""The breaker of a receiver, without a bucket."""

from datetime import UTC, datetime, timedelta

from storage.webhooks.endpoints import DISABLE_AFTER, FIRST_PAUSE, LONGEST_PAUSE, OPEN_AFTER, QUIET, Endpoint

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FRESH = Endpoint(tenant="t", url="https://receiver.example/")


def failed(times: int, *, each: timedelta = timedelta(seconds=1), scale: float = 1.0) -> Endpoint:
    endpoint = FRESH
    for number in range(times):
        endpoint = endpoint.failed(NOW + number * each, scale=scale)
    return endpoint


def test_it_opens_after_failures_in_a_row() -> None:
    """Not before the fifth; one success in between begins anew."""
    assert failed(OPEN_AFTER - 1).state == "closed"
    assert failed(OPEN_AFTER).state == "open"
    assert failed(OPEN_AFTER - 1).succeeded(NOW).failed(NOW).state == "closed"


def test_pauses_double_up_to_an_hour() -> None:
    """1, 2, 4 … minutes, and 60."""
    pauses = []
    for times in range(OPEN_AFTER, OPEN_AFTER + 12):
        last = NOW + timedelta(seconds=times - 1)
        until = failed(times).open_until
        assert until is not None
        pauses.append(until - last)
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE


def test_a_success_closes_it_and_enables_it() -> None:
    """And forgets since when it failed."""
    well = failed(OPEN_AFTER).failed(NOW, disable="410").succeeded(NOW)
    assert (well.state, well.failures, well.failing_since, well.last_success_at) == ("closed", 0, None, NOW)


def test_days_of_failures_disable_it() -> None:
    """With the reason; a receiver that says so is disabled at once."""
    ill = failed(2, each=DISABLE_AFTER)
    assert ill.state == "disabled"
    assert ill.disabled_reason == f"it has failed since {NOW.isoformat(timespec='seconds')}"
    assert FRESH.failed(NOW, disable="the receiver answered 410").disabled_reason == "the receiver answered 410"


def test_a_person_may_have_it_tried_again() -> None:
    """Whatever it was; its failures are not forgotten, so that one more opens it again, but not for an hour."""
    again = failed(OPEN_AFTER + 60).failed(NOW, disable="410").enabled()
    assert again.state == "closed"
    assert again.failed(NOW).open_until == NOW + FIRST_PAUSE


def test_success_after_success_is_not_written() -> None:
    """The very same value means that nothing is to be stored."""
    well = FRESH.succeeded(NOW)
    assert well.succeeded(NOW + QUIET / 2) is well
    assert well.succeeded(NOW + QUIET).last_success_at == NOW + QUIET

"""The circuit breaker of an endpoint, without a bucket."""

from datetime import UTC, datetime, timedelta

from storage.webhooks.endpoints import DISABLE_AFTER, FIRST_PAUSE, LONGEST_PAUSE, OPEN_AFTER, QUIET, Endpoint

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FRESH = Endpoint(tenant="t", url="https://receiver.example/")


def failed(times: int, *, each: timedelta = timedelta(seconds=1), scale: float = 1.0) -> Endpoint:
    endpoint = FRESH
    for number in range(times):
        endpoint = endpoint.failed(NOW + number * each, scale=scale)
    return endpoint


def test_the_breaker_opens_after_consecutive_failures() -> None:
    """The breaker opens at the fifth consecutive failure, and a success restarts the count."""
    assert failed(OPEN_AFTER - 1).state == "closed"
    assert failed(OPEN_AFTER).state == "open"
    assert failed(OPEN_AFTER - 1).succeeded(NOW).failed(NOW).state == "closed"


def test_pauses_double_up_to_an_hour() -> None:
    """The pauses are 1, 2, 4 … minutes, up to 60."""
    pauses = []
    for times in range(OPEN_AFTER, OPEN_AFTER + 12):
        last = NOW + timedelta(seconds=times - 1)
        until = failed(times).open_until
        assert until is not None
        pauses.append(until - last)
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE


def test_a_success_closes_and_enables_the_endpoint() -> None:
    """A success closes the breaker, enables the endpoint and clears the start of its failures."""
    well = failed(OPEN_AFTER).failed(NOW, disable="410").succeeded(NOW)
    assert (well.state, well.failures, well.failing_since, well.last_success_at) == ("closed", 0, None, NOW)


def test_days_of_failures_disable_the_endpoint() -> None:
    """An endpoint is disabled with a reason after days of failures, or at once if the receiver requests it."""
    ill = failed(2, each=DISABLE_AFTER)
    assert ill.state == "disabled"
    assert ill.disabled_reason == f"it has failed since {NOW.isoformat(timespec='seconds')}"
    assert FRESH.failed(NOW, disable="the receiver answered 410").disabled_reason == "the receiver answered 410"


def test_a_user_can_enable_the_endpoint_again() -> None:
    """An endpoint that is enabled by hand closes its breaker, and the next failure opens it for the shortest pause."""
    again = failed(OPEN_AFTER + 60).failed(NOW, disable="410").enabled()
    assert again.state == "closed"
    assert again.failed(NOW).open_until == NOW + FIRST_PAUSE


def test_repeated_successes_are_not_written() -> None:
    """A success soon after another returns the same value, so that nothing is written."""
    well = FRESH.succeeded(NOW)
    assert well.succeeded(NOW + QUIET / 2) is well
    assert well.succeeded(NOW + QUIET).last_success_at == NOW + QUIET

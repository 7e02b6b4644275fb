"""The rate limit of a key in one process."""

from datetime import timedelta

from app.auth import MOST_KEYS, Rates
from storage.clock import ManualClock


def test_a_burst_goes_through_and_then_the_rate_holds(clock: ManualClock) -> None:
    """A key may send two seconds' worth of requests at once, and then as many as its rate refills."""
    rates = Rates(5, clock)
    assert [rates.take("a") for _ in range(11)] == [0] * 10 + [1]
    clock.set(clock.now() + timedelta(seconds=1))
    assert [rates.take("a") for _ in range(6)] == [0] * 5 + [1]


def test_one_key_does_not_use_up_anothers_rate(clock: ManualClock) -> None:
    """Each key has a separate rate."""
    rates = Rates(1, clock)
    assert [rates.take("a") for _ in range(3)] == [0, 0, 1]
    assert rates.take("b") == 0


def test_a_rate_below_one_says_how_long_to_wait(clock: ManualClock) -> None:
    """At one request in ten seconds, a refused request gets the remaining seconds to wait."""
    rates = Rates(0.1, clock)
    assert (rates.take("a"), rates.take("a")) == (0, 10)
    clock.set(clock.now() + timedelta(seconds=4))
    assert rates.take("a") == 6


def test_a_clock_that_goes_back_changes_no_allowance(clock: ManualClock) -> None:
    """A clock that goes back neither adds requests to a key nor removes any."""
    rates = Rates(1, clock)
    assert [rates.take("a") for _ in range(2)] == [0, 0]
    clock.set(clock.now() - timedelta(hours=1))
    assert rates.take("a") == 1


def test_memory_is_bounded(clock: ManualClock) -> None:
    """The least recently used key is evicted."""
    rates = Rates(0.1, clock)
    rates.take("first")
    for number in range(MOST_KEYS):
        rates.take(str(number))
    assert rates.take("first") == 0

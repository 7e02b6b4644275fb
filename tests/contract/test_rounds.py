"""Consecutive bucket requests of a job, as counts, so that an additional round is noticed on any machine."""

import pytest

from tests.support.rounds import Rounds, measured_rounds


@pytest.mark.parametrize(("key", "rounds"), [(None, Rounds(2, 8)), ("once", Rounds(3, 9))])
def test_a_job_takes_the_expected_rounds(key: str | None, rounds: Rounds) -> None:
    """A job is accepted in two rounds, or three with an Idempotency-Key, and is completed and read in six more."""
    assert measured_rounds(key) == rounds

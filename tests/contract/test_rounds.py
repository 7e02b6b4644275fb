"""How long a job waits for the bucket, in rounds: counts, so that a change that adds one is noticed on any machine."""

import pytest

from tests.support.rounds import Rounds, measured_rounds


@pytest.mark.parametrize(("key", "rounds"), [(None, Rounds(2, 8)), ("once", Rounds(3, 9))])
def test_rounds_of_a_job(key: str | None, rounds: Rounds) -> None:
    """Two rounds accept a job, three with an Idempotency-Key; five more, and a client's read, see it completed."""
    assert measured_rounds(key) == rounds

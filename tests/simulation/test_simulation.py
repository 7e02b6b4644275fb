"""Courses of events, each from a seed; and that the simulation sees a broken rule."""

import hashlib
import logging
from collections.abc import Iterator

import pytest

from tests.simulation.faults import Rates
from tests.simulation.mutations import MUTATIONS, Mutation, no_attempt_check
from tests.simulation.run import simulate

SEEDS, SEEDS_IN_SHORT = 2_000, 100
SHARES = 10
ENOUGH = 1_000
"""Seeds within which each broken rule shows. Most show within ten."""
RATES = {no_attempt_check: Rates(long_pause=0.1)}
"""What makes a broken rule show sooner."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Faults are logged by the thousand."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.chaos
@pytest.mark.parametrize("share", range(SHARES))
def test_nothing_accepted_is_lost(share: int, is_long: bool) -> None:
    """Whatever fails and dies, every invariant of `watcher` and `world` holds; `make simulate` runs more seeds."""
    for seed in range(share, SEEDS if is_long else SEEDS_IN_SHORT, SHARES):
        assert simulate(seed).violations == [], f"seed {seed}"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_seed_gives_one_course_of_events(seed: int) -> None:
    """The same calls at the same times in the same order, so that a failure can be looked into."""
    courses = {hashlib.sha256("\n".join(simulate(seed).history).encode()).hexdigest() for _ in range(3)}
    assert len(courses) == 1


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_broken_rule_is_seen(mutation: Mutation) -> None:
    """Without the rule, some seed violates an invariant: the rule is needed, and the invariant is checked."""
    with mutation():
        assert any(simulate(seed, RATES.get(mutation)).violations for seed in range(ENOUGH))

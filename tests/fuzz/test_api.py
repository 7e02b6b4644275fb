"""A part of the requests of `make fuzz`."""

from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from tests.fuzz.bodies import ask_bodies
from tests.fuzz.numbers import ask_numbers
from tests.fuzz.world import DOCUMENTS, world

CASES, CASES_IN_SHORT = 2_000, 250


@pytest.mark.chaos
@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_operation_answers_as_documented(tmp_path: Path, name: str, is_long: bool) -> None:
    """Generated requests to every operation get documented answers."""
    from tests.fuzz.api import ask_everything  # its import takes a second in each process

    cases = CASES if is_long else CASES_IN_SHORT
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(world(tmp_path)) as there:
        statuses = ask_everything(there, name, cases=cases, random_seed=1)
    assert sum(statuses.values()) >= cases / 2


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_unusual_notation_of_a_number_is_accepted(tmp_path: Path, name: str) -> None:
    """Every operation refuses unusual notations of a number, none with a 5xx."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(world(tmp_path)) as there:
        assert ask_numbers(there, DOCUMENTS[name]) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_body_that_is_not_utf_8_json_is_accepted(tmp_path: Path, name: str) -> None:
    """Every operation refuses other encodings, surrogates, deep nesting and numbers of thousands of digits."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(world(tmp_path)) as there:
        assert ask_bodies(there, DOCUMENTS[name]) == []

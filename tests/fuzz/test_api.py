"""A slice of what `make fuzz` asks the API."""

import json
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from tests.fuzz.bodies import ask_bodies
from tests.fuzz.numbers import ask_numbers
from tests.fuzz.world import DOCUMENT, world

CASES, CASES_IN_SHORT = 2_000, 250


@pytest.mark.chaos
def test_every_operation_answers_as_documented(tmp_path: Path, is_long: bool) -> None:
    """Generated requests get documented answers, and no operation is left out."""
    from tests.fuzz.api import ask_everything  # schemathesis takes a second, in each process that collects this module

    cases = CASES if is_long else CASES_IN_SHORT
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(world(tmp_path)) as there:
        statuses = ask_everything(there, cases=cases, random_seed=1)
    assert sum(statuses.values()) >= cases / 2


def test_no_number_in_disguise_is_taken(tmp_path: Path) -> None:
    """Wherever an operation takes a number: each is refused, and none by a 500."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(world(tmp_path)) as there:
        assert ask_numbers(there, json.loads(DOCUMENT.read_text())) == []


def test_no_body_that_is_not_utf_8_json_is_taken(tmp_path: Path) -> None:
    """By any operation: other encodings, surrogates, depth, numbers of thousands of digits."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(world(tmp_path)) as there:
        assert ask_bodies(there, json.loads(DOCUMENT.read_text())) == []

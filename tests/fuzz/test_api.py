"""A slice of what `make fuzz` asks the API."""

from pathlib import Path

from anyio.from_thread import start_blocking_portal

from tests.fuzz.api import ask_everything
from tests.fuzz.world import world

CASES = 500


def test_every_operation_answers_as_documented(tmp_path: Path) -> None:
    """Generated requests get documented answers, and no operation is left out."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(world(tmp_path)) as there:
        statuses = ask_everything(there, cases=CASES, random_seed=1)
    assert sum(statuses.values()) >= CASES / 2

"""The job that every system runs: a picture of one colour, saved."""

from itertools import count
from typing import Any

from tests.support.engines import saved

SIZE = 16
_numbers = count(1)


def fresh_graph() -> dict[str, Any]:
    """Return EmptyImage and SaveImage with a new colour, so that ComfyUI's cache never answers."""
    number = next(_numbers)
    return saved(f"overhead-{number}", color=number)

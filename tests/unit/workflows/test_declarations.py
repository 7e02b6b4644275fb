"""What is read from a class of the published object_info."""

from typing import Any

import pytest

from workflows.declarations import OPEN_INPUTS, declared


@pytest.mark.parametrize(
    ("published", "is_open"),
    [({OPEN_INPUTS: True}, True), ({OPEN_INPUTS: False}, False), ({}, False), ({OPEN_INPUTS: 1}, False)],
)
def test_open_inputs_are_read_from_what_is_published(published: dict[str, Any], is_open: bool) -> None:
    """A class counts as open only where its entry says exactly so: ComfyUI itself publishes nothing about it."""
    assert declared({"input": {"required": {}}, **published}).open_inputs is is_open

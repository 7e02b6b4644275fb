"""The facts that are read from a class in the published object_info."""

from typing import Any

import pytest

from workflows.declarations import OPEN_INPUTS, UNCHECKED_INPUTS, declared


@pytest.mark.parametrize(
    ("published", "is_open"),
    [({OPEN_INPUTS: True}, True), ({OPEN_INPUTS: False}, False), ({}, False), ({OPEN_INPUTS: 1}, False)],
)
def test_open_inputs_are_read_from_object_info(published: dict[str, Any], is_open: bool) -> None:
    """A class is open only if its entry says `true`, because ComfyUI itself does not publish this."""
    assert declared({"input": {"required": {}}, **published}).open_inputs is is_open


@pytest.mark.parametrize(
    ("published", "core", "custom"),
    [
        ({}, True, False),
        ({UNCHECKED_INPUTS: []}, True, True),
        ({UNCHECKED_INPUTS: ["other"]}, True, True),
        ({UNCHECKED_INPUTS: ["mode"]}, False, False),
        ({UNCHECKED_INPUTS: ["*"]}, False, False),
        ({UNCHECKED_INPUTS: "mode"}, True, False),
    ],
)
def test_compared_inputs_are_read_from_object_info(published: dict[str, Any], core: bool, custom: bool) -> None:
    """Without published facts ComfyUI is assumed to compare values for its own classes only."""
    assert declared({"python_module": "nodes", **published}).compares("mode") is core
    assert declared({"python_module": "custom_nodes.pack", **published}).compares("mode") is custom

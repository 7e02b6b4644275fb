"""What is read from a class of the published object_info."""

from typing import Any

import pytest

from workflows.declarations import OPEN_INPUTS, UNCHECKED_INPUTS, declared


@pytest.mark.parametrize(
    ("published", "is_open"),
    [({OPEN_INPUTS: True}, True), ({OPEN_INPUTS: False}, False), ({}, False), ({OPEN_INPUTS: 1}, False)],
)
def test_open_inputs_are_read_from_what_is_published(published: dict[str, Any], is_open: bool) -> None:
    """A class counts as open only where its entry says exactly so: ComfyUI itself publishes nothing about it."""
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
def test_whether_comfyui_compares_a_value_is_read_from_what_is_published(
    published: dict[str, Any], core: bool, custom: bool
) -> None:
    """Where nobody has found it out, it does for its own classes, and perhaps not for those of custom nodes."""
    assert declared({"python_module": "nodes", **published}).compares("mode") is core
    assert declared({"python_module": "custom_nodes.pack", **published}).compares("mode") is custom

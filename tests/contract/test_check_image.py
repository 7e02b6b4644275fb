"""Findings of the last step of an image build, on the lite engine and on a real ComfyUI where one is configured."""

from pathlib import Path

import pytest

from infra.check_image import examine, failed_imports, misfits, missing_classes, shipped_workflows
from tests.support.engines import EngineChoice, engine_choices

pytestmark = pytest.mark.anyio

LOG = [
    "Import times for custom nodes:",
    "   0.0 seconds: /opt/comfyui/custom_nodes/websocket_image_save.py",
    "   0.1 seconds (IMPORT FAILED): /opt/comfyui/custom_nodes/ComfyUI-Broken",
]


def test_a_custom_node_that_fails_to_import_is_named() -> None:
    """A failed import is read from the lines that ComfyUI logs at its start."""
    assert failed_imports(LOG) == ["custom node ComfyUI-Broken does not import"]


def test_a_missing_node_is_named_with_its_workflow() -> None:
    """A node class that the engine lacks is reported once per workflow."""
    graph = {"1": {"class_type": "A"}, "2": {"class_type": "B"}, "3": {"class_type": "B"}}
    assert missing_classes({"mine": graph}, {"A": {}}) == ["workflow mine needs the node B"]


def test_a_workflow_that_the_engine_would_refuse_is_named() -> None:
    """A workflow with values that a node does not accept is reported, but a missing model is not."""
    declared = {
        "input": {"required": {"side": [["left", "right"]], "ckpt_name": [[]]}},
        "output": [],
        "output_node": True,
    }
    graph = {"1": {"class_type": "A", "inputs": {"side": "top", "ckpt_name": "a.safetensors"}}}
    (problem,) = misfits({"mine": graph}, {"A": declared | {"python_module": "nodes"}})
    assert problem.startswith("workflow mine: input side of node 1 (A)")


@pytest.mark.parametrize("choice", engine_choices(), ids=lambda choice: choice.name)
async def test_a_complete_engine_has_no_problems(choice: EngineChoice, tmp_path: Path) -> None:
    """A complete engine has every node of the shipped workflows, and is stopped after the examination."""
    host = choice.host(tmp_path / "engine")
    report = await examine(host, shipped_workflows((), has_models=choice.name != "lite"))
    assert report.problems == ()
    assert "SaveImage" in report.object_info
    incomplete = await examine(choice.host(tmp_path / "again"), {"mine": {"1": {"class_type": "NoSuchNode"}}})
    assert incomplete.problems == ("workflow mine needs the node NoSuchNode",)

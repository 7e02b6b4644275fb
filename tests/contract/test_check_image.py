"""What the last step of an image's build finds: on the lite engine, and on a real ComfyUI where one is configured."""

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


def test_a_custom_node_that_does_not_import_is_named() -> None:
    """By the line that ComfyUI logs at its start."""
    assert failed_imports(LOG) == ["custom node ComfyUI-Broken does not import"]


def test_a_missing_node_is_named_with_its_workflow() -> None:
    """Each class once."""
    graph = {"1": {"class_type": "A"}, "2": {"class_type": "B"}, "3": {"class_type": "B"}}
    assert missing_classes({"mine": graph}, {"A": {}}) == ["workflow mine needs the node B"]


def test_a_workflow_that_the_engine_would_refuse_is_named() -> None:
    """A class may be there and take other values by now; that a model is not there is no fault of an image."""
    declared = {
        "input": {"required": {"side": [["left", "right"]], "ckpt_name": [[]]}},
        "output": [],
        "output_node": True,
    }
    graph = {"1": {"class_type": "A", "inputs": {"side": "top", "ckpt_name": "a.safetensors"}}}
    (problem,) = misfits({"mine": graph}, {"A": declared | {"python_module": "nodes"}})
    assert problem.startswith("workflow mine: input side of node 1 (A)")


@pytest.mark.parametrize("choice", engine_choices(), ids=lambda choice: choice.name)
async def test_an_engine_that_is_whole(choice: EngineChoice, tmp_path: Path) -> None:
    """It has every node that the shipped workflows use, and is stopped afterwards."""
    host = choice.host(tmp_path / "engine")
    report = await examine(host, shipped_workflows((), has_models=choice.name != "lite"))
    assert report.problems == ()
    assert "SaveImage" in report.object_info
    incomplete = await examine(choice.host(tmp_path / "again"), {"mine": {"1": {"class_type": "NoSuchNode"}}})
    assert incomplete.problems == ("workflow mine needs the node NoSuchNode",)

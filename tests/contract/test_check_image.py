"""What the last step of an image's build finds: on the lite engine, and on a real ComfyUI where one is configured."""

from pathlib import Path

import pytest

from infra.check_image import examine, failed_imports, missing_classes, shipped_workflows
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


@pytest.mark.parametrize("choice", engine_choices(), ids=lambda choice: choice.name)
async def test_an_engine_that_is_whole(choice: EngineChoice, tmp_path: Path) -> None:
    """It has every node that the shipped workflows use, and is stopped afterwards."""
    host = choice.host(tmp_path / "engine")
    report = await examine(host, shipped_workflows((), has_models=choice.name != "lite"))
    assert report.problems == ()
    assert "SaveImage" in report.object_info
    incomplete = await examine(choice.host(tmp_path / "again"), {"mine": {"1": {"class_type": "NoSuchNode"}}})
    assert incomplete.problems == ("workflow mine needs the node NoSuchNode",)

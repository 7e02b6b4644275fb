"""What nodes of the lite engine compute, where real ComfyUI's recorded pictures do not show it."""

from typing import Any

import numpy as np
import pytest

from workers.lite.node import NodeClass
from workers.lite.nodes import node_classes
from workflows.catalogue import Catalogue
from workflows.editor import convert

CLASSES = node_classes()
PICTURE = np.linspace(0, 1, 2 * 20 * 30 * 3, dtype=np.float32).reshape(2, 20, 30, 3)
RUN: Any = None
"""These nodes do not use the running prompt."""


def computed(name: str, **inputs: Any) -> Any:
    node: NodeClass = CLASSES[name]
    return node.execute(RUN, **inputs).values[0]


@pytest.mark.parametrize(
    ("kind", "options", "size"),
    [
        ("scale dimensions", {"width": 16, "height": 16, "crop": "center"}, (16, 16)),
        ("scale dimensions", {"width": 0, "height": 10, "crop": "disabled"}, (15, 10)),
        ("scale dimensions", {"width": 0, "height": 0, "crop": "disabled"}, (30, 20)),
        ("scale by multiplier", {"multiplier": 1.5}, (45, 30)),
        ("scale longer dimension", {"longer_size": 60}, (60, 40)),
        ("scale shorter dimension", {"shorter_size": 10}, (15, 10)),
        ("scale width", {"width": 3}, (3, 2)),
        ("scale height", {"height": 40}, (60, 40)),
        ("scale total pixels", {"megapixels": 0.01}, (125, 84)),
        ("match size", {"match": np.zeros((1, 7, 5)), "crop": "disabled"}, (5, 7)),
    ],
)
def test_a_picture_and_a_mask_are_scaled(kind: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    """ResizeImageMaskNode scales by the inputs of the chosen kind; a mask keeps its form."""
    given = {f"resize_type_{name}": value for name, value in options.items()}
    for method in ("area", "lanczos"):
        scaled = computed("ResizeImageMaskNode", input=PICTURE, resize_type=kind, scale_method=method, **given)
        mask = computed("ResizeImageMaskNode", input=PICTURE[..., 0], resize_type=kind, scale_method=method, **given)
        assert (scaled.shape, mask.shape) == ((2, size[1], size[0], 3), (2, size[1], size[0]))


def test_a_stitch_repeats_the_last_frame() -> None:
    """ImageStitch gives both pictures the same number of frames; without a second one it changes nothing."""
    flags = {"direction": "right", "match_image_size": True, "spacing_width": 3, "spacing_color": "blue"}
    stitched = computed("ImageStitch", image1=PICTURE, image2=PICTURE[:1], **flags)
    assert stitched.shape == (2, 20, 64, 3)
    assert np.allclose(stitched[:, :, 30:34], (0, 0, 1))
    assert computed("ImageStitch", image1=PICTURE, **flags) is PICTURE


@pytest.mark.parametrize(
    ("mode", "pattern", "group", "found"),
    [
        ("First Match", "a(.)", 1, "ab"),
        ("All Matches", "a(.)", 1, "b\nc"),
        ("All Matches", "A.", 1, "ab\nac"),
        ("First Group", "a(.)", 1, "b"),
        ("First Group", "a(.)", 2, ""),
        ("All Groups", "a(.)", 1, "b\nc"),
        ("All Groups", "a", 0, ""),
        ("First Match", "(", 1, ""),
        ("First Match", "z", 1, ""),
    ],
)
def test_a_pattern_is_extracted(mode: str, pattern: str, group: int, found: str) -> None:
    """RegexExtract returns a match or a group, of the first or of all matches, and nothing for a bad pattern."""
    flags = {"case_insensitive": True, "multiline": False, "dotall": False}
    assert (
        computed("RegexExtract", string="ab ac", regex_pattern=pattern, mode=mode, group_index=group, **flags) == found
    )


def test_a_template_is_converted_by_lites_declarations() -> None:
    """A file of the form of official templates becomes a graph that the lite engine accepts."""
    catalogue = Catalogue({name: about.object_info() for name, about in CLASSES.items()})
    nodes = [
        {"id": 1, "type": "LoadImage", "widgets_values": ["a.png", "image"]},
        {
            "id": 2,
            "type": "ResizeImageMaskNode",
            "inputs": [{"name": "input", "type": "IMAGE,MASK", "link": 1}],
            "widgets_values": ["scale dimensions", 64, 32, "center", "area"],
        },
        {"id": 3, "type": "SaveImage", "inputs": [{"name": "images", "type": "IMAGE", "link": 2}]},
    ]
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]
    graph = convert({"version": 0.4, "nodes": nodes, "links": links}, catalogue).workflow
    assert graph["2"]["inputs"] == {
        "input": ["1", 0],
        "resize_type": "scale dimensions",
        "resize_type.width": 64,
        "resize_type.height": 32,
        "resize_type.crop": "center",
        "scale_method": "area",
    }
    assert set(CLASSES["ResizeImageMaskNode"].parts(graph["2"]["inputs"])) == {
        "resize_type.width",
        "resize_type.height",
        "resize_type.crop",
    }

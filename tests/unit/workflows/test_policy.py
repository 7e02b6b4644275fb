"""The classes that a graph may use, and the folders that its loaders may read."""

import json
from pathlib import Path
from typing import Any

import pytest

from workflows import strangers
from workflows.catalogue import Catalogue
from workflows.errors import NodeNotAllowed, UnsafeFileName
from workflows.graph import Graph, parse_graph
from workflows.library import library
from workflows.policy import DEFAULT, GraphTrust, NodePolicy

HERE = Path(__file__).parent
CORE = (HERE / "core_classes.txt").read_text().splitlines()
"""All classes of ComfyUI 0.3.64 and 0.33."""
PACKS = json.loads((HERE / "node_types.json").read_text())


def graph(class_type: str, **inputs: Any) -> Graph:
    return parse_graph({"7": {"class_type": class_type, "inputs": inputs}})


@pytest.mark.parametrize(
    ("rules", "class_type", "is_allowed"),
    [
        (DEFAULT, "KSampler", True),
        (DEFAULT, "VHS_LoadVideo", True),
        (DEFAULT, "VHS_LoadVideoPath", False),
        (DEFAULT, "Exec Python Code Script", False),
        (DEFAULT, "ACE_ExpressionEval", False),
        (DEFAULT, "SaveImageKJ", False),
        (DEFAULT, "AnyNodeLocal", False),
        (DEFAULT, "Power Puter (rgthree)", False),
        (DEFAULT, "Any Switch (rgthree)", True),
        (f"{DEFAULT}, !VHS_LoadVideoPath", "VHS_LoadVideoPath", True),
        (f"{DEFAULT}, !VHS_LoadVideoPath", "VHS_LoadImagesPath", False),
        ("", "VHS_LoadVideoPath", True),
        ("Shell*", "ShellCommand", False),
        ("Shell*", "shellcommand", True),
        ("*, !KSampler, !SaveImage", "KSampler", True),
        ("*, !KSampler, !SaveImage", "LoadImage", False),
        ("!KSampler, *", "KSampler", False),
    ],
)
def test_the_last_matching_pattern_decides(rules: str, class_type: str, is_allowed: bool) -> None:
    """The last matching pattern decides, so that allow lists and deny lists are both lists of patterns."""
    assert (NodePolicy.parse(rules).objection(class_type, "strangers") is None) == is_allowed


@pytest.mark.parametrize("rules", ["a,,b", "!", "a, !", ","])
def test_an_empty_pattern_is_refused(rules: str) -> None:
    with pytest.raises(ValueError, match="empty pattern"):
        NodePolicy.parse(rules)


def test_only_comfyuis_classes_that_accept_any_folder_are_denied() -> None:
    """The default policy denies four of ComfyUI's own classes and nothing that the shipped workflows use."""
    policy = NodePolicy.parse(DEFAULT)
    assert len(CORE) > 500
    assert [name for name in (*CORE, *PACKS) if policy.objection(name, "strangers")] == [
        "LoadTrainingDataset",
        "SaveImageDataSetToFolder",
        "SaveImageTextDataSetToFolder",
        "SaveTrainingDataset",
    ]
    for workflow in library().values():
        policy.check(parse_graph(workflow.graph), "strangers")
        strangers.check(parse_graph(workflow.graph), Catalogue.absent())


def test_a_denied_node_is_named_with_the_reason() -> None:
    """The error names the node's id, its position and the reason."""
    with pytest.raises(NodeNotAllowed, match="node 7 is a RunPython, which runs code") as refused:
        NodePolicy.parse(DEFAULT).check(graph("RunPython", script="import os"), "own")
    assert refused.value.pointer == "/7/class_type"


@pytest.mark.parametrize("rules", [DEFAULT, "*, !KSampler"])
@pytest.mark.parametrize("class_type", ["Image Save", "RunPython[beta]*", "Eval?, all", "!Odd"])
def test_a_refusal_has_the_value_that_allows_the_class(rules: str, class_type: str) -> None:
    """The hint contains the current value of the setting with one more pattern that allows the class."""
    policy = NodePolicy.parse(f"{rules}, Eval*, !*Odd, *Odd")
    if policy.objection(class_type, "strangers") is None:
        return
    with pytest.raises(NodeNotAllowed) as refused:
        policy.check(graph(class_type), "strangers")
    setting, _, value = refused.value.hint.partition('COMFYUI_MODAL_DENIED_NODES="')
    assert setting
    NodePolicy.parse(value.removesuffix('"')).check(graph(class_type), "strangers")


@pytest.mark.parametrize(
    ("class_type", "denied_to"),
    [
        ("Exec Python Code Script", ["own", "strangers"]),
        ("Image Save", ["strangers"]),
        ("VHS_LoadVideoPath", ["strangers"]),
        ("Screencap_mss", ["strangers"]),
        ("KSampler", []),
    ],
)
def test_own_graphs_are_denied_only_classes_that_run_code(class_type: str, denied_to: list[str]) -> None:
    """Own graphs may use classes that access any path, because the engine's isolation confines them."""
    policy = NodePolicy.parse(DEFAULT)
    levels: tuple[GraphTrust, ...] = ("own", "strangers")
    assert [graphs for graphs in levels if policy.objection(class_type, graphs)] == denied_to


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "a/../../secret.png",
        "..\\secret.png",
        "a/ .. /b.png",
        "..",
        "/etc/passwd",
        " /etc/passwd",
        "\\\\host\\share\\x.png",
        "~/x.png",
        "C:\\x.png",
        "c:/x.png",
        "x.png [output]",
        "x.png[temp]",
        "x.png [temp] ",
        "x\0.png",
    ],
)
@pytest.mark.parametrize(
    "class_type", ["LoadImage", "LoadImageMask", "LoadAudio", "LoadVideo", "VHS_LoadVideo", "Load3D", "UNETLoader"]
)
def test_a_loader_stays_in_its_folder(class_type: str, name: str) -> None:
    """A name that leaves the input folder is refused in any field and at any depth of its value."""
    for value in (name, {"content": name}, {"__value__": [name]}):
        with pytest.raises(UnsafeFileName) as refused:
            strangers.check(graph(class_type, image=value), Catalogue.absent())
        assert refused.value.pointer == "/7/inputs/image"


@pytest.mark.parametrize(
    ("class_type", "field", "value"),
    [
        ("LoadImage", "image", "cat.png"),
        ("LoadImage", "image", "cat.png [input]"),
        ("LoadImage", "image", "..cat.. (1) [x].png"),
        ("LoraLoader", "lora_name", "wan/2.2/high.safetensors"),
        ("WanVideoModelLoader", "model", "Wan2.2\\I2V.safetensors"),
        ("LoadImage", "image", ["3", 0]),
        ("LoadText", "prompt", "../ is a path [output]"),
        ("CLIPTextEncode", "text", "/imagine ../ [temp]"),
        ("SaveImage", "filename_prefix", "a/b"),
    ],
)
def test_ordinary_values_pass(class_type: str, field: str, value: Any) -> None:
    document = {
        "3": {"class_type": "EmptyImage", "inputs": {}},
        "7": {"class_type": class_type, "inputs": {field: value}},
    }
    strangers.check(parse_graph(document), Catalogue.absent())

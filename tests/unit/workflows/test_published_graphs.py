"""Graphs as users publish them and ComfyUI runs them: `own` mode accepts each, and it reaches the engine unchanged.

`published/object_info.json` declares their classes in a shortened form of the packs' declarations.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from workflows import strangers
from workflows.catalogue import Catalogue
from workflows.errors import WorkflowError
from workflows.execution import TOKEN_INPUT, for_execution
from workflows.graph import Graph, parse_graph
from workflows.policy import DEFAULT, NodePolicy

FOLDER = Path(__file__).parent / "published"
CATALOGUE = Catalogue(json.loads((FOLDER / "object_info.json").read_text()))
POLICY = NodePolicy.parse(DEFAULT)
BROUGHT = frozenset({"a.flac", "pasted/image (3).png"})
GRAPHS = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem != "object_info")
REFUSED_TO_STRANGERS = {
    "a_linked_file": ("unsafe-file-name", "/2/inputs/model_file"),
    "a_saver_of_any_path": ("node-not-allowed", "/3/class_type"),
    "a_savers_linked_name": ("unsafe-file-name", "/3/inputs/filename"),
    "an_old_option": ("value-not-in-list", "/2/inputs/profile"),
    "an_undeclared_text": ("undeclared-input", "/2/inputs/toggle_trigger_words"),
    "undeclared_links": ("undeclared-input", "/3/inputs/ctx_01"),
}


def document(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def refusal(graph: Graph) -> WorkflowError | None:
    try:
        POLICY.check(graph, "strangers")
        strangers.check(graph, CATALOGUE)
    except WorkflowError as error:
        return error
    return None


@pytest.mark.parametrize("name", GRAPHS)
def test_a_published_graph_is_accepted_and_unchanged(name: str) -> None:
    """A published graph reaches the engine unchanged except for the mark, which classes with open inputs do not get."""
    graph = parse_graph(document(name))
    POLICY.check(graph, "own")
    report = CATALOGUE.check(graph, BROUGHT)
    assert not report.is_refusal
    assert bool(report.warnings()) is (name == "an_unconnected_preview")
    executed = for_execution(graph, CATALOGUE, "job-1")
    for node in executed.values():
        if node["inputs"].pop(TOKEN_INPUT, None) is not None:
            assert not CATALOGUE.declaration(node["class_type"]).open_inputs
    assert executed == document(name)


@pytest.mark.parametrize("name", GRAPHS)
def test_dangerous_graphs_of_strangers_are_refused(name: str) -> None:
    """Dangerous graphs of strangers are refused with their position and the setting that allows them, and the others
    pass."""
    refused = refusal(parse_graph(document(name)))
    assert (refused and (refused.code, refused.pointer)) == REFUSED_TO_STRANGERS.get(name)
    assert refused is None or "COMFYUI_MODAL_" in refused.hint


def test_a_denied_saver_names_the_setting_that_allows_it() -> None:
    """The hint for a denied saver contains the value of the setting, ready to copy."""
    refused = refusal(parse_graph(document("a_saver_of_any_path")))
    assert refused is not None
    assert 'COMFYUI_MODAL_DENIED_NODES="default, !Image Save"' in refused.hint


@pytest.mark.parametrize("image", ["pasted/image (3).png", "https://files.example.com/a.png"])
def test_a_picture_that_is_not_provided_is_refused(image: str) -> None:
    """A graph with a missing picture is refused before a GPU starts."""
    graph = copy.deepcopy(document("a_pasted_picture"))
    graph["1"]["inputs"]["image"] = image
    report = CATALOGUE.check(parse_graph(graph), frozenset())
    assert (report.is_refusal, [fault.code for fault in report.faults]) == (True, ["missing-medium"])

"""Graphs: which documents are accepted, and which errors refuse the others."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.graphs import check, example
from workflows import errors
from workflows.catalogue import Catalogue
from workflows.execution import TOKEN_INPUT, for_execution
from workflows.graph import parse_graph
from workflows.library import shipped

INFO: dict[str, Any] = {
    "EmptyImage": {"input": {"required": {"width": ["INT"], "height": ["INT"]}}, "output": ["IMAGE"]},
    "ImageInvert": {"input": {"required": {"image": ["IMAGE"]}}, "output": ["IMAGE"]},
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING"]}},
        "output": [],
        "output_node": True,
    },
}


def saved() -> dict[str, Any]:
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8}, "_meta": {"title": "blank"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }


def changed(node_id: str, field: str, value: Any) -> dict[str, Any]:
    graph = saved()
    graph[node_id]["inputs"][field] = value
    return graph


def test_a_parsed_graph_keeps_the_whole_document() -> None:
    """A parsed graph keeps the whole submitted document, including `_meta`."""
    nodes = parse_graph(saved()).nodes
    assert nodes.keys() == saved().keys()
    for node_id, node in nodes.items():
        assert {**node.rest, "class_type": node.class_type, "inputs": node.inputs} == saved()[node_id]


@pytest.mark.parametrize(
    ("document", "error", "pointer"),
    [
        ([], errors.NotAWorkflow, ""),
        ("text", errors.NotAWorkflow, ""),
        ({}, errors.NotAWorkflow, ""),
        ({"nodes": [], "links": [], "version": 0.4}, errors.UiFormat, ""),
        ({"1": "x"}, errors.BadNode, "/1"),
        ({"1": {"inputs": {}}}, errors.BadNode, "/1"),
        ({"1": {"class_type": "A", "inputs": []}}, errors.BadNode, "/1/inputs"),
        ({"a/b~": {"class_type": "A", "inputs": 3}}, errors.BadNode, "/a~1b~0/inputs"),
        ({"prompt": saved(), "client_id": "x"}, errors.NotAWorkflow, "/prompt"),
        ({"output": saved(), "workflow": {}}, errors.NotAWorkflow, "/output"),
    ],
)
def test_an_invalid_document_is_refused_with_its_error(
    document: Any, error: type[errors.WorkflowError], pointer: str
) -> None:
    """Each kind of fault raises its own error with a pointer to its position."""
    with pytest.raises(error) as refused:
        parse_graph(document)
    assert refused.value.pointer == pointer


def test_a_cycle_names_its_nodes() -> None:
    """The message of a cycle lists the nodes that depend on each other."""
    for catalogue in (Catalogue(INFO), Catalogue.absent()):
        faults = catalogue.check(parse_graph(changed("1", "width", ["2", 0]))).faults
        (ring,) = (fault for fault in faults if isinstance(fault, errors.WorkflowCycle))
        assert {"1", "2"} == set(ring.message.split(": ")[1].split(" → "))
        assert catalogue.check(parse_graph(changed("1", "width", ["2", 0]))).node_errors.keys() == {"1", "2"}


def test_a_node_that_links_to_itself_is_a_cycle() -> None:
    """A node that links to itself is refused as a cycle."""
    with pytest.raises(errors.WorkflowCycle):
        check(Catalogue(INFO), parse_graph(changed("2", "image", ["2", 0])))


def test_a_node_may_be_called_prompt() -> None:
    """A node may have the id `prompt`, because only a `prompt` that contains nodes is a request body."""
    assert parse_graph({"prompt": {"class_type": "A", "inputs": {}}, "output": {"class_type": "B"}}).nodes


@pytest.mark.parametrize(
    ("document", "error", "pointer"),
    [
        (changed("9", "images", ["1", 1]), errors.DanglingLink, "/9/inputs/images"),
        (changed("9", "images", ["1", -2]), errors.DanglingLink, "/9/inputs/images"),
        (changed("2", "image", ["7", 0]), errors.DanglingLink, "/2/inputs/image"),
        (changed("9", "undeclared", ["7", 0]), errors.DanglingLink, "/9/inputs/undeclared"),
        (changed("1", "undeclared", ["9", 0]), errors.WorkflowCycle, "/1"),
        ({"1": {"class_type": "SaveImagee", "inputs": {}}}, errors.UnknownNodeClass, "/1/class_type"),
        ({"1": {"class_type": "SaveImage", "inputs": {}}}, errors.MissingRequiredInput, "/1/inputs/images"),
        ({"1": saved()["1"]}, errors.NoOutputNode, ""),
    ],
)
def test_faults_that_the_engine_would_find_are_refused_first(
    document: Any, error: type[errors.WorkflowError], pointer: str
) -> None:
    """Classes, required inputs, output slots and output nodes are checked against object_info."""
    with pytest.raises(error) as refused:
        check(Catalogue(INFO), parse_graph(document))
    assert refused.value.pointer == pointer


def test_a_broken_branch_that_no_output_needs_is_accepted() -> None:
    """A broken branch that no output needs is accepted, because ComfyUI ignores it."""
    for inputs in ({}, {"image": ["77", 0]}, {"image": ["7", 0]}, {"image": ["9", 0], "undeclared": ["77", 0]}):
        check(Catalogue(INFO), parse_graph(saved() | {"7": {"class_type": "ImageInvert", "inputs": inputs}}))


@pytest.mark.parametrize("slot", [-1, False, 0])
def test_a_slot_is_a_python_index(slot: int) -> None:
    """A slot may be -1 for the last output or false for the first, as in ComfyUI."""
    check(Catalogue(INFO), parse_graph(changed("9", "images", ["2", slot])))


def test_a_misspelt_class_gets_a_suggestion() -> None:
    """The hint for an unknown class names similar classes."""
    with pytest.raises(errors.UnknownNodeClass) as refused:
        check(Catalogue(INFO), parse_graph({"1": {"class_type": "SaveImagee", "inputs": {}}}))
    assert "SaveImage" in refused.value.hint


def test_faults_next_to_an_unknown_class_are_reported() -> None:
    """A graph with an unknown class is refused with all its other faults."""
    graph = parse_graph(saved() | {"5": {"class_type": "Unheard", "inputs": {"images": ["1", 0]}}})
    graph = graph.with_values([("9", "images", ["5", 0]), ("1", "width", "wide")])
    codes = [fault.code for fault in Catalogue(INFO).check(graph).faults]
    assert codes == ["unknown-node-class", "wrong-input-type"]


def test_a_class_that_the_lite_engine_lacks_needs_a_comfyui() -> None:
    """The hint for a class that the lite engine lacks suggests a ComfyUI instead of a custom node."""
    lite = {name: about | {"category": "lite"} for name, about in INFO.items()}
    graph = parse_graph({"1": {"class_type": "Unheard", "inputs": {}}})
    hints = [Catalogue(info).check(graph).faults[0].hint for info in (INFO, lite)]
    assert ["COMFYUI_DIR" in hint for hint in hints] == [False, True]


def test_without_object_info_only_the_structure_is_checked() -> None:
    """Without object_info only the structure is checked, so that nothing is refused that the engine may have."""
    graph = parse_graph({"1": {"class_type": "Anything", "inputs": {}}})
    check(Catalogue.absent(), graph)
    assert Catalogue.absent().output_nodes(graph) == {"1"}


def test_inputs_are_applied_to_known_nodes_and_fields() -> None:
    """Inputs are applied to fields that the graph sets or the class has, without changing the original graph."""
    graph = parse_graph(saved())
    applied = Catalogue(INFO).apply(graph, [("1", "width", 64), ("9", "filename_prefix", "y")])
    assert applied.nodes["1"].inputs["width"] == 64
    assert graph.nodes["1"].inputs["width"] == 8


def test_an_input_for_an_unknown_node_or_field_is_refused() -> None:
    """An input for an unknown node or field is refused with a pointer to its entry in `inputs`."""
    with pytest.raises(errors.UnknownInputNode) as node:
        Catalogue(INFO).apply(parse_graph(saved()), [("1", "width", 1), ("5", "width", 1)])
    assert node.value.pointer == "/1/node"
    with pytest.raises(errors.UnknownInputField) as field:
        Catalogue(INFO).apply(parse_graph(saved()), [("1", "widht", 1)])
    assert (field.value.pointer, field.value.hint) == ("/0/field", "did you mean width?")


def test_only_ancestors_of_outputs_are_executed() -> None:
    """A branch without an output node is not executed."""
    graph = parse_graph(saved() | {"5": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}})
    assert graph.ancestors(Catalogue(INFO).output_nodes(graph)) == {"1", "2", "9"}


def test_the_executed_graph_differs_only_by_marked_outputs() -> None:
    """Each output node gets a token that defeats ComfyUI's cache, and nothing else changes."""
    executed = for_execution(parse_graph(saved()), Catalogue(INFO), "job-1")
    assert executed["9"]["inputs"].pop(TOKEN_INPUT) == "job-1"
    assert executed == saved()


def test_undeclared_fields_reach_the_engine() -> None:
    """Undeclared literals and links, hidden inputs and other keys of a node reach the engine unchanged."""
    node = {
        "class_type": "Saves",
        "inputs": {"x": 1, "prompt": "mine", "undeclared": ["7", 0], TOKEN_INPUT: "theirs"},
        "is_changed": ["a"],
        "override_display_id": "9",
        "_meta": {"title": "Mine", "else": 1},
    }
    info = {"Saves": {"input": {"required": {"x": ["INT"]}, "hidden": {"prompt": "PROMPT"}}, "output_node": True}}
    executed = for_execution(parse_graph({"7": node}), Catalogue(info), "t")["7"]
    assert executed["inputs"].pop(f"{TOKEN_INPUT}_") == "t"
    assert executed == node


def test_a_node_with_open_inputs_gets_no_mark() -> None:
    """The nearest ancestor with declared inputs is marked in place of a node that accepts any literal."""
    info = {
        "Makes": {"input": {"required": {}}, "output": ["IMAGE"]},
        "Open": {"input": {"required": {}}, "output": ["IMAGE"], "output_node": True, "open_inputs": True},
    }
    graph = {
        "1": {"class_type": "Makes", "inputs": {}},
        "2": {"class_type": "Makes", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "Open", "inputs": {"any": ["2", 0], "missing": ["77", 0], "other": ["1", 0]}},
        "4": {"class_type": "Open", "inputs": {"any": ["3", 0], "self": ["4", 0]}},
    }
    executed = for_execution(parse_graph(graph), Catalogue(info), "t")
    assert [node_id for node_id, node in executed.items() if TOKEN_INPUT in node["inputs"]] == ["2"]


def test_a_submitted_is_changed_does_not_reuse_the_cache() -> None:
    """A loader whose graph sets `is_changed`, as graphs from a PNG do, is marked like any other node."""
    graph = saved()
    graph["1"]["is_changed"] = ["0123"]
    executed = for_execution(parse_graph(graph), Catalogue(INFO), "t")
    assert executed["1"]["is_changed"] == ["0123"]
    assert executed["1"]["inputs"][TOKEN_INPUT] == "t"


def _marked(values: dict[str, Any], files: dict[str, str]) -> dict[str, str]:
    """Return the marks by node id; node 1 loads with these values, and node 2 loads other values."""
    info = {
        "Loads": {"input": {"required": {}}, "output": ["AUDIO"]},
        "Saves": {"input": {"required": {}}, "output_node": True},
    }
    graph = {
        "1": {"class_type": "Loads", "inputs": values},
        "2": {"class_type": "Loads", "inputs": {"text": "a voice"}},
        "3": {"class_type": "Saves", "inputs": {"audio": ["1", 0], "other": ["2", 0]}},
    }
    executed = for_execution(parse_graph(graph), Catalogue(info), "t", files=files)
    return {key: node["inputs"][TOKEN_INPUT] for key, node in executed.items() if TOKEN_INPUT in node["inputs"]}


@pytest.mark.parametrize(
    "values",
    [
        {"audio": "set/voice.wav"},
        {"audio": "./set/voice.wav"},
        {"audio": ' "voice.wav [input]"'},
        {"audio": {"paths": ["x", {"file": "voice.wav"}]}},
        {"audio": {"__value__": ["voice.wav", "other"]}},
        {"list": "other.wav\nvoice.wav"},
        {"folder": "set"},
        {"path": "C:\\ComfyUI\\input\\set"},
        {"folder": "input"},
        {"folder": "./"},
        {"pattern": "set/*.wav"},
        {"name": "VOICE.WAV"},
        {"stem": "voice"},
    ],
)
def test_a_node_that_names_an_input_file_is_marked_with_it(values: dict[str, Any]) -> None:
    """A node that names an input file is marked with its key, so that the cache does not return another job's file
    of that name."""
    first = _marked(values, {"set/voice.wav": "tenants/a/1"})
    assert first.keys() == {"1", "3"}
    assert first == _marked(values, {"set/voice.wav": "tenants/a/1"})
    assert first["1"] != _marked(values, {"set/voice.wav": "tenants/b/2"})["1"]
    assert _marked(values, {}).keys() == {"3"}


def test_the_shape_ignores_values() -> None:
    """Graphs that differ only in values have one shape, and another link changes the shape."""
    shape = parse_graph(saved()).shape()
    assert parse_graph(changed("1", "width", 999)).shape() == shape
    assert parse_graph(changed("9", "images", ["1", 0])).shape() != shape


@pytest.mark.parametrize("name", shipped())
def test_shipped_examples_are_valid(name: str) -> None:
    """Each shipped example parses and has an output."""
    check(Catalogue.absent(), parse_graph(example(name)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
nodes = st.fixed_dictionaries(
    {"class_type": st.sampled_from(["EmptyImage", "SaveImage", "X"])},
    optional={
        "inputs": st.dictionaries(
            st.text(max_size=3), json_values | st.tuples(st.sampled_from("123"), st.integers()).map(list)
        )
    },
)


@given(json_values | st.dictionaries(st.sampled_from("123"), nodes | json_values, max_size=3))
def test_any_document_parses_or_is_refused(document: Any) -> None:
    """Any JSON document is accepted or raises a WorkflowError."""
    try:
        graph = parse_graph(document)
        check(Catalogue(INFO), graph)
    except errors.WorkflowError:
        return
    assert for_execution(graph, Catalogue(INFO), "t")


def test_the_values_of_a_graph_are_counted_with_their_members() -> None:
    """Every input counts as a value, and so does each member of a list or an object in it, a link's as well."""
    assert parse_graph(saved()).count_values() == 2 + 3 + 4
    assert parse_graph(changed("1", "width", {"a": [1, {"b": []}]})).count_values() == 9 + 4

"""Graphs: what is accepted, what is refused and by which name."""

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


def test_a_parsed_graph_is_the_same_document_again() -> None:
    """Nothing of the submitted document is lost, `_meta` included."""
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
def test_an_unsound_document_is_refused_by_name(document: Any, error: type[errors.WorkflowError], pointer: str) -> None:
    """Each kind of fault has its own error, which says where."""
    with pytest.raises(error) as refused:
        parse_graph(document)
    assert refused.value.pointer == pointer


def test_a_cycle_names_its_ring() -> None:
    """The message lists the nodes that wait for each other."""
    for catalogue in (Catalogue(INFO), Catalogue.absent()):
        faults = catalogue.check(parse_graph(changed("1", "width", ["2", 0]))).faults
        (ring,) = (fault for fault in faults if isinstance(fault, errors.WorkflowCycle))
        assert {"1", "2"} == set(ring.message.split(": ")[1].split(" → "))
        assert catalogue.check(parse_graph(changed("1", "width", ["2", 0]))).node_errors.keys() == {"1", "2"}


def test_a_node_that_links_to_itself_is_a_cycle() -> None:
    """The shortest ring has one node."""
    with pytest.raises(errors.WorkflowCycle):
        check(Catalogue(INFO), parse_graph(changed("2", "image", ["2", 0])))


def test_a_node_may_be_called_prompt() -> None:
    """Only what holds nodes is taken for a request's body."""
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
def test_what_the_engine_would_refuse_is_refused_before_it(
    document: Any, error: type[errors.WorkflowError], pointer: str
) -> None:
    """Classes, required inputs, output slots and output nodes are checked against object_info."""
    with pytest.raises(error) as refused:
        check(Catalogue(INFO), parse_graph(document))
    assert refused.value.pointer == pointer


def test_a_broken_branch_that_no_output_needs_is_the_engines_to_ignore() -> None:
    """ComfyUI runs such a workflow, whatever is wrong there, so it is not refused here."""
    for inputs in ({}, {"image": ["77", 0]}, {"image": ["7", 0]}, {"image": ["9", 0], "undeclared": ["77", 0]}):
        check(Catalogue(INFO), parse_graph(saved() | {"7": {"class_type": "ImageInvert", "inputs": inputs}}))


@pytest.mark.parametrize("slot", [-1, False, 0])
def test_a_slot_counts_as_python_counts(slot: int) -> None:
    """ComfyUI takes -1 for the last output, and false for the first."""
    check(Catalogue(INFO), parse_graph(changed("9", "images", ["2", slot])))


def test_a_misspelt_class_gets_a_suggestion() -> None:
    """The hint names classes that look like the wrong one."""
    with pytest.raises(errors.UnknownNodeClass) as refused:
        check(Catalogue(INFO), parse_graph({"1": {"class_type": "SaveImagee", "inputs": {}}}))
    assert "SaveImage" in refused.value.hint


def test_what_is_wrong_behind_an_unknown_class_is_told_with_it() -> None:
    """The graph is refused anyway: one answer with all that is to mend."""
    graph = parse_graph(saved() | {"5": {"class_type": "Unheard", "inputs": {"images": ["1", 0]}}})
    graph = graph.with_values([("9", "images", ["5", 0]), ("1", "width", "wide")])
    codes = [fault.code for fault in Catalogue(INFO).check(graph).faults]
    assert codes == ["unknown-node-class", "wrong-input-type"]


def test_a_class_that_the_lite_engine_lacks_needs_a_comfyui() -> None:
    """No custom node would help there."""
    lite = {name: about | {"category": "lite"} for name, about in INFO.items()}
    graph = parse_graph({"1": {"class_type": "Unheard", "inputs": {}}})
    hints = [Catalogue(info).check(graph).faults[0].hint for info in (INFO, lite)]
    assert ["COMFYUI_DIR" in hint for hint in hints] == [False, True]


def test_without_object_info_only_the_structure_is_checked() -> None:
    """An engine that is not known yet must not make the API refuse anything it may have."""
    graph = parse_graph({"1": {"class_type": "Anything", "inputs": {}}})
    check(Catalogue.absent(), graph)
    assert Catalogue.absent().output_nodes(graph) == {"1"}


def test_inputs_are_applied_to_known_nodes_and_fields() -> None:
    """A field is known if the graph sets it or the class has it."""
    graph = parse_graph(saved())
    applied = Catalogue(INFO).apply(graph, [("1", "width", 64), ("9", "filename_prefix", "y")])
    assert applied.nodes["1"].inputs["width"] == 64
    assert graph.nodes["1"].inputs["width"] == 8


def test_an_input_for_an_unknown_node_or_field_is_refused() -> None:
    """The refusal points at the entry of `inputs`."""
    with pytest.raises(errors.UnknownInputNode) as node:
        Catalogue(INFO).apply(parse_graph(saved()), [("1", "width", 1), ("5", "width", 1)])
    assert node.value.pointer == "/1/node"
    with pytest.raises(errors.UnknownInputField) as field:
        Catalogue(INFO).apply(parse_graph(saved()), [("1", "widht", 1)])
    assert (field.value.pointer, field.value.hint) == ("/0/field", "did you mean width?")


def test_only_ancestors_of_outputs_are_executed() -> None:
    """A branch that ends nowhere costs nothing and counts for nothing."""
    graph = parse_graph(saved() | {"5": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}})
    assert graph.ancestors(Catalogue(INFO).output_nodes(graph)) == {"1", "2", "9"}


def test_the_executed_graph_is_the_submitted_one_with_a_mark_on_its_outputs() -> None:
    """Every output node carries the token, so that ComfyUI's cache does not answer for it; nothing else is changed."""
    executed = for_execution(parse_graph(saved()), Catalogue(INFO), "job-1")
    assert executed["9"]["inputs"].pop(TOKEN_INPUT) == "job-1"
    assert executed == saved()


def test_what_nobody_declares_reaches_the_engine() -> None:
    """Undeclared literals and links, hidden inputs, and whatever else a node says."""
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


def test_a_node_that_would_be_given_the_mark_gets_none() -> None:
    """Where a class takes any literal, the nearest node before it that does not is marked instead, and no other."""
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


def test_a_note_for_the_cache_brings_no_other_jobs_file() -> None:
    """A graph out of a PNG says `is_changed` of its loader: its file may be another one in this job."""
    graph = saved()
    graph["1"]["is_changed"] = ["0123"]
    executed = for_execution(parse_graph(graph), Catalogue(INFO), "t")
    assert executed["1"]["is_changed"] == ["0123"]
    assert executed["1"]["inputs"][TOKEN_INPUT] == "t"


def _marked(values: dict[str, Any], files: dict[str, str]) -> dict[str, str]:
    """The marks by node id; a loader with these values is node 1, another node without any is node 2."""
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
    ],
)
def test_a_node_that_names_a_file_of_the_job_is_marked_by_the_file(values: dict[str, Any]) -> None:
    """A class may not say how its file has changed: the cache would answer with another job's of the same name."""
    first = _marked(values, {"set/voice.wav": "tenants/a/1"})
    assert first.keys() == {"1", "3"}
    assert first == _marked(values, {"set/voice.wav": "tenants/a/1"})
    assert first["1"] != _marked(values, {"set/voice.wav": "tenants/b/2"})["1"]
    assert _marked(values, {}).keys() == {"3"}


def test_the_shape_ignores_values() -> None:
    """Jobs that differ in values alone have one shape; another link makes another."""
    shape = parse_graph(saved()).shape()
    assert parse_graph(changed("1", "width", 999)).shape() == shape
    assert parse_graph(changed("9", "images", ["1", 0])).shape() != shape


@pytest.mark.parametrize("name", shipped())
def test_shipped_examples_are_sound(name: str) -> None:
    """Each example parses and has an output."""
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
    """No JSON value makes the parser or the catalogue fail otherwise."""
    try:
        graph = parse_graph(document)
        check(Catalogue(INFO), graph)
    except errors.WorkflowError:
        return
    assert for_execution(graph, Catalogue(INFO), "t")

"""The comparison table of `make compare`."""

from pathlib import Path

from tests.compare import table
from tests.compare.engine import CheckResult
from tests.compare.files import INPUT, PROBE, content, input_files, listing
from tests.compare.graphs import NamedGraph, changes, graphs_in
from tests.compare.table import Compared, is_clean, listed
from tests.support.graphs import EMPTY, node, saved

GOOD = CheckResult("accepted", runs=frozenset({"2"}))
BAD = CheckResult("refused", frozenset({("1", "value_not_in_list")}), frozenset(), "no such model", "missing-model")


def rows(real: CheckResult, own: CheckResult) -> list[str]:
    return [row for row, _ in Compared("a.json", real, own).rows()]


def test_each_pair_of_outcomes_has_its_row() -> None:
    """Each pair of outcomes has its row, and rows that mark a difference stay empty for equal outcomes and policy
    refusals."""
    raised = CheckResult("raised")
    denied = CheckResult("refused", runs=frozenset(), code="node-not-allowed")
    assert rows(GOOD, GOOD) == [table.BOTH_ACCEPT]
    assert rows(BAD, BAD) == [table.BOTH_REFUSE]
    assert rows(GOOD, denied) == [table.POLICY]
    assert rows(GOOD, BAD) == [table.WRONG_REFUSAL]
    assert rows(BAD, GOOD) == [table.WRONG_ACCEPTANCE]
    assert rows(raised, GOOD) == [table.WRONG_ACCEPTANCE]


def test_an_output_that_only_one_side_runs_is_a_difference() -> None:
    """Two sides that accept a graph but run different outputs differ."""
    part = CheckResult("accepted", frozenset({("3", "required_input_missing")}), frozenset({"2"}))
    whole = CheckResult("accepted", runs=frozenset({"2", "4"}))
    assert rows(part, part) == [table.BOTH_ACCEPT]
    assert rows(part, whole) == [table.BOTH_ACCEPT, table.OTHER_ERRORS]


def test_a_differing_graph_is_listed_with_its_reason() -> None:
    """A graph in a marked row is listed with its file and the rule that refused it."""
    found = [Compared("a.json", GOOD, BAD), Compared("b.json", GOOD, GOOD)]
    assert not is_clean(found)
    assert is_clean(found[1:])
    assert "- a.json: missing-model: no such model" in listed(found)
    assert "b.json" not in listed(found)


def test_only_the_cache_mark_may_be_added() -> None:
    """The mark that defeats ComfyUI's cache is the only field that may be added to an output node."""
    graph = {"1": EMPTY, "2": saved() | {"_meta": {"title": "x"}}}
    marked = {"1": EMPTY, "2": {**graph["2"], "inputs": {**graph["2"]["inputs"], "_job": "a"}}}
    assert changes(graph, marked, outputs=1) == []
    assert changes(graph, marked, outputs=0) == ["1 fields were added for 0 outputs"]
    loads = {"1": {"class_type": "LoadImage", "inputs": {"image": "sub/a.png"}}}
    marked = {"1": {"class_type": "LoadImage", "inputs": {"image": "sub/a.png", "_job": "x"}}}
    assert changes(loads, marked, outputs=0, files=["sub/a.png"]) == []
    assert changes(loads, marked, outputs=0, files=["b.png"]) == ["1 fields were added for 0 outputs"]
    assert changes(graph, {"1": EMPTY, "2": saved(prefix="other")}, outputs=1) == [
        "node 2: fields next to its inputs were changed",
        "node 2: filename_prefix was changed",
    ]
    assert changes(graph, {"2": graph["2"]}, outputs=1) == ["node 1 was removed"]


def test_a_number_of_another_type_is_a_change() -> None:
    """1 and 1.0 differ, because ComfyUI's cache and some nodes distinguish them."""
    one, other = {"1": node("A", x=1)}, {"1": node("A", x=1.0)}
    assert changes(one, other, outputs=0) == ["node 1: x was changed"]


def test_graphs_are_found_wrapped_or_not_and_other_files_are_left_out(tmp_path: Path) -> None:
    """Graphs are found with or without a request around them, and editor files and lists are skipped."""
    for name, text in {
        "a/plain.json": '{"1": {"class_type": "A", "inputs": {}}}',
        "wrapped.json": '{"prompt": {"1": {"class_type": "A", "inputs": {}}}}',
        "editor.json": '{"nodes": [], "links": []}',
        "list.json": "[]",
        "broken.json": "{",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [one.name for one in graphs_in(tmp_path)] == ["a/plain.json", "wrapped.json"]
    assert all(one.nodes() == {"1": ("A", {})} for one in graphs_in(tmp_path))


def test_input_files_that_a_graph_names_are_provided() -> None:
    """Files are provided for inputs that list the input folder, with or without ComfyUI's suffix, and never for a
    path outside it."""
    info = {
        "LoadImage": {"input": {"required": {"image": [[], {"image_upload": True}]}}},
        "LoadMask": {"input": {"optional": {"mask": [[f"{PROBE}.png"]]}}},
        "Checkpoint": {"input": {"required": {"name": ["COMBO", {"options": [f"{PROBE}=checkpoints=.safetensors"]}]}}},
    }
    lists = listing(info)
    assert lists == {
        ("LoadImage", "image"): INPUT,
        ("LoadMask", "mask"): INPUT,
        ("Checkpoint", "name"): "checkpoints",
    }
    graph = {
        "1": node("LoadImage", image="pasted/a.png [input]"),
        "2": node("LoadMask", mask="../b.png"),
        "3": node("LoadImage", image=["2", 0]),
        "4": node("LoadImage", image="clipspace/c.png [temp]"),
    }
    assert input_files(NamedGraph("g", graph), lists) == ["pasted/a.png"]
    assert content("a.png").startswith(b"\x89PNG")

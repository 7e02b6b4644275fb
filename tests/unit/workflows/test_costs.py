"""The cost of checking a large graph, counted in calls: values, choices and names must not multiply."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from workflows import strangers
from workflows.catalogue import Catalogue
from workflows.execution import for_execution
from workflows.graph import Graph, parse_graph
from workflows.proposals import propose
from workflows.suggestions import suggestion

NODES, INPUTS, CHOICES = 50, 10, 2_000
CALLS_A_VALUE = 100

COMBOS = {
    "choices of a custom node": ([f"choice {number}" for number in range(CHOICES)], "custom_nodes.x", "none of them"),
    "models": (
        [f"model {number}.safetensors" for number in range(CHOICES)],
        "nodes",
        f"model {CHOICES - 1}.safetensors",
    ),
    "files": ([f"picture {number}.png" for number in range(CHOICES)], "custom_nodes.x", "other.png"),
}


class Key(str):
    """A bucket key that counts how often it is put into a set."""

    __slots__ = ()
    hashed = 0
    __eq__ = str.__eq__

    def __hash__(self) -> int:
        Key.hashed += 1
        return str.__hash__(self)


def calls_of(work: Callable[[], object]) -> Counter[str]:
    """Return the number of Python and C function calls by name."""
    calls: Counter[str] = Counter()

    def count(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            calls[frame.f_code.co_name] += 1
        elif event == "c_call":
            calls[argument.__name__] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def class_of(inputs: dict[str, Any], module: str = "nodes") -> dict[str, Any]:
    return {"input": {"optional": inputs}, "output": ["IMAGE"], "output_node": True, "python_module": module}


def checked(catalogue: Catalogue, graph: Graph) -> None:
    strangers.check(graph, catalogue)
    catalogue.check(graph, frozenset())


@pytest.mark.parametrize("kind", COMBOS)
def test_the_cost_of_a_value_does_not_grow_with_the_choices(kind: str) -> None:
    """The choices of a combo are processed once per class, not once per value."""
    choices, module, value = COMBOS[kind]
    fields = [f"c{number}" for number in range(INPUTS)]
    catalogue = Catalogue({"Combos": class_of({field: [choices, {}] for field in fields}, module)})
    node = {"class_type": "Combos", "inputs": dict.fromkeys(fields, value)}
    graph = parse_graph({str(number): node for number in range(NODES)})
    calls = calls_of(lambda: checked(catalogue, graph))
    assert calls.total() <= CALLS_A_VALUE * NODES * INPUTS + CALLS_A_VALUE * INPUTS * CHOICES / 10


def test_the_cost_of_a_node_does_not_grow_with_the_inputs_of_its_class() -> None:
    """The cost of a node does not grow with the optional inputs of its class, of which generated nodes have
    thousands."""
    catalogue = Catalogue({"Wide": class_of({f"i{number}": ["INT", {}] for number in range(CHOICES)})})
    graph = parse_graph({str(number): {"class_type": "Wide", "inputs": {"i1": 1}} for number in range(NODES)})
    calls = calls_of(lambda: strangers.check(graph, catalogue))
    assert calls["get"] + calls["formats"] <= 10 * (NODES + CHOICES)


def test_a_row_is_found_without_a_search_of_the_declared_inputs() -> None:
    """The cost of further members of a row does not grow with the inputs of the class."""
    declared = {f"i{number}_": ["INT", {}] for number in range(300)}
    catalogue = Catalogue({"Row": class_of({**declared, "z1": ["INT", {}]}, "custom_nodes.x")})
    graph = parse_graph({"1": {"class_type": "Row", "inputs": {f"z{number}": 1 for number in range(2, 900)}}})
    calls = calls_of(lambda: strangers.check(graph, catalogue))
    assert calls.total() <= CALLS_A_VALUE * 900


def test_the_cost_of_a_proposal_does_not_grow_with_choices_and_options() -> None:
    """The options of a class are read once for a node, and its long lists of choices not at all."""
    option = {"key": "a", "inputs": {"required": {f"p{number}": ["INT", {}] for number in range(50)}}}
    combo = ["COMFY_DYNAMICCOMBO_V3", {"options": [option]}]
    inputs = {"c": [[f"choice {number}" for number in range(CHOICES)], {}], "d": combo}
    catalogue = Catalogue({"Combos": class_of(inputs)})
    given = {"c": "choice 1", "d": "a", **{f"u{number}": "x" for number in range(100)}}
    workflow = {str(number): {"class_type": "Combos", "inputs": given} for number in range(10)}
    calls = calls_of(lambda: propose(workflow, workflow, catalogue))
    assert calls["parts"] + calls["_is_plain"] <= 200 * 10


def test_equal_names_in_a_text_stand_for_the_files_once() -> None:
    """A text with a thousand names of the input folder reads the keys of the job's files once."""
    Key.hashed = 0
    files = {f"{number}.png": Key(number) for number in range(100)}
    text = "/".join(f"{' ' * number}." for number in range(1_000))
    graph = parse_graph({"1": {"class_type": "Loader", "inputs": {"folder": text}}})
    marked = for_execution(graph, Catalogue({"Loader": class_of({"folder": ["STRING", {}]})}), "job", files=files)
    assert marked["1"]["inputs"]["_job"]
    assert Key.hashed <= 10 * len(files)


def test_missing_inputs_are_not_compared_with_each_given_one() -> None:
    """The cost of a node's missing inputs does not grow with the inputs that it is given."""
    required = {f"i{number}": ["INT", {}] for number in range(200)}
    catalogue = Catalogue({"Wide": class_of({}) | {"input": {"required": required}}})
    graph = parse_graph({"1": {"class_type": "Wide", "inputs": {f"x{number}": 1 for number in range(900)}}})
    calls = calls_of(lambda: catalogue.check(graph, frozenset()))
    assert calls["startswith"] <= 10 * len(required)


@pytest.mark.parametrize("value", [["0", 0], 7, None, ["0", 0, 0]])
def test_no_error_repeats_a_long_list_of_choices(value: Any) -> None:
    """Fifty nodes with an invalid value for one of 2,000 choices produce a short report."""
    choices = COMBOS["models"][0]
    nodes = {"Source": class_of({}), "Combo": class_of({"model": [choices, {}]})}
    graph = {str(n): {"class_type": "Combo", "inputs": {"model": value}} for n in range(1, NODES)}
    report = Catalogue(nodes).check(parse_graph({"0": {"class_type": "Source", "inputs": {}}, **graph}), frozenset())
    assert report.faults
    assert len(json.dumps(report.warnings())) < 100_000


@pytest.mark.parametrize("letter", ["x", "\U0001f600"])
def test_the_warnings_of_many_cycles_are_bounded(letter: str) -> None:
    """Fifty cycles of twenty nodes with long ids produce a report that a job's record can hold."""
    names = [f"{number} ".ljust(250, letter) for number in range(1_000)]
    nodes = {"Source": class_of({}), "Through": class_of({"image": ["IMAGE", {}]})}
    graph: dict[str, Any] = {"0": {"class_type": "Source", "inputs": {}}}
    for number, name in enumerate(names):
        before = names[number - 1 if number % 20 else number + 19]
        graph[name] = {"class_type": "Through", "inputs": {"image": [before, 0]}}
    report = Catalogue(nodes).check(parse_graph(graph), frozenset())
    assert len(report.faults) >= NODES
    assert len(json.dumps(report.warnings(), ensure_ascii=False).encode()) < 1024**2


def test_a_suggestion_costs_no_call_for_each_name() -> None:
    """A suggestion among 4,000 names runs no Python code for each of them but the check of its type and length."""
    names = [f"SomeCustomNodeClass{number:04}" for number in range(4_000)]
    found: list[str] = []
    calls = calls_of(lambda: found.append(suggestion("SomeCustomNodeClass0123x", names)))
    assert sum(calls.values()) - calls["isinstance"] - calls["len"] < 100
    assert "SomeCustomNodeClass0123" in found[0]

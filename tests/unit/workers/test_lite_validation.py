"""The catalogue and the lite engine accept the same graphs from the same declarations, each with its own code."""

import copy
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.graphs import chain, example
from workers.lite.folders import Folders
from workers.lite.nodes import node_classes
from workers.lite.validation import Refused, Validator
from workflows.catalogue import Catalogue
from workflows.errors import DanglingLink, WorkflowCycle
from workflows.graph import parse_graph
from workflows.library import shipped

CLASSES = node_classes()
CATALOGUE = Catalogue({name: declared.object_info() for name, declared in CLASSES.items()})
NOWHERE = Path("/nonexistent")
VALIDATOR = Validator(CLASSES, Folders(input=NOWHERE, output=NOWHERE, temp=NOWHERE))

node_ids = st.sampled_from(["1", "2", "3", "4"])
links = st.tuples(node_ids, st.integers(0, 2)).map(list)
literals = (
    st.sampled_from(
        [0, -1, 10**9, 0.5, 1e300, float("inf"), float("nan"), None, True, "5", "5.5", "", "lanczos", "x.png"]
    )
    | st.sampled_from([[], [1], [1, 2], {}, {"__value__": "7"}])
    | st.integers()
    | st.text("ab5 .", max_size=3)
)


@st.composite
def broken(draw: st.DrawFn) -> dict[str, Any]:
    """A shipped example with some inputs changed, removed or relinked, and some classes replaced."""
    graph: dict[str, Any] = copy.deepcopy(example(draw(st.sampled_from(list(shipped())))))
    for _ in range(draw(st.integers(1, 3))):
        node = graph[draw(st.sampled_from(sorted(graph)))]
        change = draw(st.sampled_from(["value", "value", "link", "remove", "class"]))
        if change == "class":
            node["class_type"] = draw(st.sampled_from([*sorted(CLASSES), "NoSuchNode"]))
            continue
        names = sorted(CLASSES[node["class_type"]].inputs()) if node["class_type"] in CLASSES else []
        name = draw(st.sampled_from(names or ["unheard_of"]))
        if change == "remove":
            node["inputs"].pop(name, None)
        else:
            node["inputs"][name] = draw(links if change == "link" and names else literals)
    return graph


def lite_runs(graph: dict[str, Any]) -> frozenset[str]:
    try:
        return frozenset(VALIDATOR.check(copy.deepcopy(graph)).outputs)
    except Refused:
        return frozenset()


@settings(max_examples=400)
@given(broken())
def test_catalogue_and_engine_accept_the_same_outputs(graph: dict[str, Any]) -> None:
    """The catalogue and the lite engine run the same outputs of any graph."""
    report = CATALOGUE.check(parse_graph(graph), frozenset())
    found = [fault.message for fault in report.faults]
    if any(isinstance(fault, WorkflowCycle | DanglingLink) for fault in report.faults):
        # An engine validates declared inputs alone, and its execution ends at what undeclared ones link to.
        assert report.runs <= lite_runs(graph), found
    else:
        assert report.runs == lite_runs(graph), found


def test_an_undeclared_link_into_a_cycle_stops_every_output() -> None:
    """The engine's validation passes over such a link, and its execution does not."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": ["1", 0]}},
        "4": {"class_type": "MaskPreview", "inputs": {"image": ["1", 0], "mask": 0}},
    }
    assert CATALOGUE.check(parse_graph(graph), frozenset()).runs == frozenset()
    assert lite_runs(graph) == frozenset({"4"})


def test_the_longest_chain_is_validated() -> None:
    """A chain of 2,000 nodes is validated without exhausting the interpreter's stack."""
    verdict = VALIDATOR.check(chain(2_000))
    assert (verdict.outputs, verdict.error, verdict.node_errors) == (("1999",), None, {})

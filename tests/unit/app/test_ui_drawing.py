"""The drawing of a graph, and the code that repeats a job."""

import json
import shlex
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.ui.drawing import HEIGHT, MOST_DRAWN, WIDTH, drawing_of
from app.ui.snippets import snippets
from storage.jobs.models import Input
from tests.support.records import a_job
from workflows.graph import Graph, Node
from workflows.library import library

LINKS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=40)


def graph_of(links: list[tuple[int, int]], nodes: int = 12) -> Graph:
    inputs: dict[int, dict[str, Any]] = {n: {} for n in range(nodes)}
    for source, target in links:
        inputs[target][f"from_{source}"] = [str(source), 0]
    return Graph({str(n): Node("Class", inputs[n], {}) for n in inputs})


@given(LINKS)
def test_nodes_stand_behind_what_they_read_from_and_apart(links: list[tuple[int, int]]) -> None:
    """No two boxes overlap, and without a cycle each node stands to the right of its sources."""
    forward = [(source, target) for source, target in links if source < target]
    for found in (links, forward):
        drawing = drawing_of(graph_of(found), failed=None, current=None, makes=frozenset())
        places = {box.node_id: (box.x, box.y) for box in drawing.boxes}
        assert len(set(places.values())) == len(places) == 12
        assert all(x + WIDTH <= drawing.width and y + HEIGHT <= drawing.height for x, y in places.values())
        assert len(drawing.edges) == len(set(found))
    assert all(places[str(source)][0] < places[str(target)][0] for source, target in forward)


def test_a_long_chain_and_a_large_graph_are_laid_out() -> None:
    """A chain as long as the largest drawn graph needs no recursion, and a larger graph is only counted."""
    chain = [(n, n + 1) for n in range(MOST_DRAWN - 1)]
    drawing = drawing_of(graph_of(chain, MOST_DRAWN), failed="1", current="2", makes=frozenset({"3"}))
    assert [box.state for box in drawing.boxes[:4]] == ["", "failed", "current", "output"]
    large = drawing_of(graph_of([], MOST_DRAWN + 1), failed=None, current=None, makes=frozenset())
    assert (large.is_too_large, large.boxes, large.nodes) == (True, (), MOST_DRAWN + 1)


@given(st.text(max_size=40))
def test_the_code_quotes_every_value(text: str) -> None:
    """Whatever a value contains, the shell line has it in one word and the Python code is an expression of it."""
    workflows = library(None)
    record = a_job(workflow_name="words", metadata={"order": text})
    inputs = [Input(node="1", field="value", value=text)]
    curl, python, typescript = snippets(record, inputs, workflows, "http://127.0.0.1:8000")
    words = shlex.split(curl.code)
    assert json.loads(words[words.index("-d") + 1]) == {"inputs": {"first": text}, "metadata": {"order": text}}
    compile(python.code, "snippet", "exec")
    assert json.dumps(text, ensure_ascii=False) in typescript.code

"""The drawing of a graph, and the code that repeats a job."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.ui.drawing import HEIGHT, MOST_DRAWN, MOST_LINKS, WIDEST, WIDTH, drawing_of
from app.ui.layers import in_layers
from app.ui.pages import environment
from app.ui.snippets import beginning_of_json, snippets
from storage.jobs.models import Input
from tests.support.records import a_job
from workflows.editor import positions
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
        drawing = drawing_of(graph_of(found))
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
    large = drawing_of(graph_of([], MOST_DRAWN + 1))
    assert (large.is_too_large, large.boxes, large.nodes) == (True, (), MOST_DRAWN + 1)
    dense = [(source, target) for source in range(200) for target in range(source)]
    assert len(dense) > MOST_LINKS
    assert drawing_of(graph_of(dense, 200)).is_too_large


def test_the_layers_of_a_dense_graph_read_each_link_twice() -> None:
    """Nodes that each read from all before them, the last one first, cost a pass over their links."""

    class Counted(list[str]):
        reads = 0

        def __iter__(self) -> Iterator[str]:
            for one in super().__iter__():
                Counted.reads += 1
                yield one

    dense = {str(node): Counted(map(str, range(node))) for node in reversed(range(140))}
    links = sum(map(len, dense.values()))
    in_layers(dense, WIDTH, HEIGHT)
    assert Counted.reads <= 12 * links


def test_a_graph_of_a_thousand_nodes_is_drawn_in_bounded_text() -> None:
    """A thousand nodes in one layer take several columns, and their SVG stays below 600 KB."""
    drawing = drawing_of(graph_of([(0, n) for n in range(1, 1_200)], 1_200))
    assert max(drawing.width, drawing.height) < 15_000
    text = environment().get_template("fragments/graph.html").render(drawing=drawing)
    assert text.count("<rect") == 1_200
    assert len(text) < 600_000


def a_node(node_id: int, x: float, y: float, **members: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "Class", "pos": [x, y], "size": [300, 100], **members}


def test_the_places_of_the_editor_are_kept() -> None:
    """Boxes stand to each other as in the editor, and a subgraph is one box with the state of what is inside it."""
    graph = Graph(
        {
            "1": Node("Class", {}, {}),
            "7:2": Node("Class", {"x": ["1", 0]}, {}),
            "7:3": Node("Class", {"x": ["7:2", 0]}, {}),
            "4": Node("Class", {"x": ["7:3", 0]}, {"_meta": {"title": "Last"}}),
        }
    )
    nodes = [
        a_node(1, -500, 40, flags={"collapsed": True}),
        {**a_node(7, 0, 0), "type": "a-definition", "pos": {"0": 0, "1": 0}},
        a_node(4, -500, 400),
        a_node(9, 9e5, 0),
    ]
    file = {"nodes": nodes, "definitions": {"subgraphs": [{"id": "a-definition", "name": "Sharpen"}]}}
    drawing = drawing_of(graph, failed="7:3", makes=frozenset({"4"}), canvas=positions(file))
    boxes = {box.node_id: box for box in drawing.boxes}
    assert (drawing.is_of_editor, drawing.nodes, list(boxes)) == (True, 4, ["1", "7", "4"])
    assert boxes["1"].x == boxes["4"].x < boxes["7"].x
    assert boxes["7"].y < boxes["1"].y < boxes["4"].y
    assert boxes["1"].height < boxes["7"].height
    assert [(box.title, box.state) for box in drawing.boxes] == [
        ("Class", ""),
        ("Sharpen", "failed"),
        ("Last", "output"),
    ]
    assert [(edge.source, edge.target) for edge in drawing.edges] == [("1", "7"), ("7", "4")]


@given(st.recursive(st.none() | st.floats() | st.integers() | st.text(max_size=3), st.lists, max_leaves=4))
def test_no_place_of_a_file_makes_a_drawing_without_bounds(place: Any) -> None:
    """Whatever a file has as a position or a size, the drawing is finite; without places it is laid out in layers."""
    graph = graph_of([(0, 1)], 2)
    for members in ({"pos": place}, {"pos": [0, 0], "size": place}, {"pos": [place, 1]}):
        file = {"nodes": [a_node(0, 0, 0), {**a_node(1, 0, 0), **members}, place], "definitions": place}
        drawing = drawing_of(graph, canvas=positions(file))
        assert len(drawing.boxes) == 2
        assert 0 < max(drawing.width, drawing.height) <= 2 * WIDEST
    assert positions(place) == {}


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


class Counted(dict[str, int]):
    """An object that counts the members that are read."""

    read = 0

    def items(self) -> Any:
        for member in super().items():
            self.read += 1
            yield member


def test_only_the_beginning_of_a_large_value_is_written() -> None:
    """A page writes the beginning of a large value, and all of a short one."""
    large = Counted({str(number): number for number in range(50_000)})
    shown = beginning_of_json({"a": large}, 100)
    assert json.dumps({"a": dict(large)}).startswith(shown)
    assert (len(shown), large.read < 100) == (100, True)
    assert beginning_of_json({"ä": [1, None]}, 100) == '{"ä": [1, null]}'

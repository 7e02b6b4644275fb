"""Lays a graph out for an SVG: by the places that its nodes have in the editor, or else in layers. Pure.

In layers, each node stands to the right of all that it reads from. On the editor's canvas a subgraph is one box, which
stands for all nodes of the graph that are inside it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from app.ui.layers import in_layers
from workflows.editor import CanvasNode
from workflows.graph import Graph, as_link

WIDTH, HEIGHT = 190, 64
MARGIN = 12
MOST_DRAWN = 2_000
"""Boxes of a drawing: as many as the nodes of the largest graph that a deployment takes by default."""
MOST_LINKS = 10_000
SCALE = 0.62
"""Pixels for a unit of the editor's canvas, where a usual node is 315 wide."""
TITLE_BAR = 30
"""Units of the canvas that a node's title takes above its position."""
SMALLEST, LARGEST = 30, 1_200
"""Pixels of a side of a box on the editor's canvas."""
WIDEST = 40_000
"""Pixels of a drawing by the editor's places. Nodes that stand farther apart are drawn in layers."""
CHARACTER = 7.6
"""Pixels that a character of a title takes."""

Place = tuple[int, int, int, int]
"""x, y, width and height."""
Sources = Mapping[str, list[str]]
_RANK = ("failed", "current", "output", "")


@dataclass(frozen=True, slots=True)
class Box:
    """One or more nodes. `state` is `failed`, `current`, `output` or empty; `line` is a value that tells it apart."""

    node_id: str
    title: str
    line: str
    state: str
    x: int
    y: int
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True, slots=True)
class Edge:
    """A link as the path of a curve, with its ends for a reader of the text."""

    path: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """`is_too_large` stands for a graph beyond `MOST_DRAWN` or `MOST_LINKS`, which has neither boxes nor edges."""

    width: int
    height: int
    nodes: int
    boxes: tuple[Box, ...] = ()
    edges: tuple[Edge, ...] = ()
    is_too_large: bool = False
    is_of_editor: bool = False


def drawing_of(
    graph: Graph,
    *,
    failed: str | None = None,
    current: str | None = None,
    makes: frozenset[str] = frozenset(),
    canvas: Mapping[str, CanvasNode] | None = None,
) -> Drawing:
    """Return the drawing. `makes` are the nodes that have made outputs; `canvas` are the places in the editor."""
    count = len(graph.nodes)
    places = _on_canvas(graph, canvas or {})
    box_of = _root if places else _itself
    sources = _sources(graph, box_of)
    if len(sources) > MOST_DRAWN or sum(map(len, sources.values())) > MOST_LINKS:
        return Drawing(0, 0, count, is_too_large=True)
    marks = {**dict.fromkeys(makes, "output"), **({current: "current"} if current else {})}
    marks |= {failed: "failed"} if failed else {}
    states = _states(graph, marks, box_of)
    found = places or {
        node_id: (MARGIN + x, MARGIN + y, WIDTH, HEIGHT)
        for node_id, (x, y) in in_layers(sources, WIDTH, HEIGHT).items()
    }
    boxes = tuple(
        Box(
            node_id,
            _short(_title(graph, node_id, canvas if places else None), found[node_id][2]),
            _short(_line(graph, node_id), found[node_id][2]),
            states[node_id],
            *found[node_id],
        )
        for node_id in sources
    )
    edges = tuple(
        Edge(_curve(found[source], found[target]), source, target) for target, ids in sources.items() for source in ids
    )
    width = max((x + width for x, _, width, _ in found.values()), default=0) + MARGIN
    height = max((y + height for _, y, _, height in found.values()), default=0) + MARGIN
    return Drawing(width, height, count, boxes, edges, is_of_editor=bool(places))


def _root(node_id: str) -> str:
    """Return the node of the canvas that an id belongs to: `12:5:3` is inside the subgraph `12`."""
    return node_id.partition(":")[0]


def _itself(node_id: str) -> str:
    return node_id


def _on_canvas(graph: Graph, canvas: Mapping[str, CanvasNode]) -> dict[str, Place]:
    """Return the places by root id; nothing if a node has none, or if they are too far apart."""
    roots = dict.fromkeys(map(_root, graph.nodes))
    if not roots or not all(root in canvas for root in roots):
        return {}
    left, top = min(canvas[root].x for root in roots), min(canvas[root].y for root in roots)
    places = {root: _scaled(canvas[root], left, top) for root in roots}
    return places if all(x <= WIDEST and y <= WIDEST for x, y, _, _ in places.values()) else {}


def _scaled(node: CanvasNode, left: float, top: float) -> Place:
    x, y = round((node.x - left) * SCALE), round((node.y - top) * SCALE)
    sides = (node.width, node.height + TITLE_BAR)
    width, height = (min(LARGEST, max(SMALLEST, round(side * SCALE))) for side in sides)
    return MARGIN + x, MARGIN + y, width, height


def _sources(graph: Graph, box_of: Callable[[str], str]) -> dict[str, list[str]]:
    """Return for each box those that it reads from, each once."""
    found: dict[str, dict[str, None]] = {box_of(node_id): {} for node_id in graph.nodes}
    for node_id, node in graph.nodes.items():
        target = box_of(node_id)
        for link in node.links().values():
            source = box_of(link.node_id)
            if link.node_id in graph.nodes and (source != target or source == link.node_id):
                found[target][source] = None
    return {target: list(ids) for target, ids in found.items()}


def _states(graph: Graph, marks: Mapping[str, str], box_of: Callable[[str], str]) -> Mapping[str, str]:
    """Return the state of each box: the most important one of its nodes."""
    found: dict[str, set[str]] = defaultdict(set)
    for node_id in graph.nodes:
        found[box_of(node_id)].add(marks.get(node_id, ""))
    return {name: next(state for state in _RANK if state in states) for name, states in found.items()}


def _curve(source: Place, target: Place) -> str:
    x1, y1 = source[0] + source[2], source[1] + min(source[3], HEIGHT) // 2
    x2, y2 = target[0], target[1] + min(target[3], HEIGHT) // 2
    bend = max(24, abs(x2 - x1) // 2)
    return f"M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"


def _title(graph: Graph, node_id: str, canvas: Mapping[str, CanvasNode] | None) -> str:
    if canvas is not None and canvas[node_id].title:
        return canvas[node_id].title
    node = graph.nodes.get(node_id)
    if node is None:
        return f"subgraph {node_id}"
    meta = node.rest.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return title if isinstance(title, str) and title else node.class_type


def _line(graph: Graph, node_id: str) -> str:
    """Return the node's first value that is a text, or else its first value. A subgraph has none."""
    node = graph.nodes.get(node_id)
    inputs: Iterable[tuple[str, object]] = () if node is None else node.inputs.items()
    values = {name: value for name, value in inputs if as_link(value) is None and isinstance(value, str | int | float)}
    text = next((value for value in values.values() if isinstance(value, str) and value), None)
    if text is not None:
        return text
    return next((f"{name} {value}" for name, value in values.items()), "")


def _short(text: str, width: int) -> str:
    """Return the text in one line that fits into a box of this width."""
    most = max(3, int((width - 24) / CHARACTER))
    line = " ".join(text[:200].split())
    return line if len(line) <= most else f"{line[: most - 1]}…"

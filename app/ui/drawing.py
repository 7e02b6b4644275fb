"""Lays a graph out for an SVG: nodes in layers from left to right, each behind all that it reads from. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from workflows.graph import Graph, as_link

WIDTH, HEIGHT = 190, 64
GAP_X, GAP_Y, MARGIN = 60, 22, 12
MOST_DRAWN = 300
"""Nodes of a graph that is drawn. A larger one would be no picture that somebody can read."""
MOST_TEXT = 22
SWEEPS = 4
"""Passes that order the nodes of each layer by the places of their neighbours."""


@dataclass(frozen=True, slots=True)
class Box:
    """A node. `state` is `failed`, `current`, `output` or empty; `line` is a value that tells it from others."""

    node_id: str
    title: str
    line: str
    state: str
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Edge:
    """A link as the path of a curve, with its ends for a reader of the text."""

    path: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """`is_too_large` stands for a graph of more than `MOST_DRAWN` nodes, which has neither boxes nor edges."""

    width: int
    height: int
    nodes: int
    boxes: tuple[Box, ...] = ()
    edges: tuple[Edge, ...] = ()
    is_too_large: bool = field(default=False)


def drawing_of(graph: Graph, *, failed: str | None, current: str | None, makes: frozenset[str]) -> Drawing:
    """Return the drawing. `makes` are the nodes that have made outputs."""
    if len(graph.nodes) > MOST_DRAWN:
        return Drawing(0, 0, len(graph.nodes), is_too_large=True)
    sources = {
        node_id: [link.node_id for link in node.links().values() if link.node_id in graph.nodes]
        for node_id, node in graph.nodes.items()
    }
    rows = _ordered(_layers(sources), sources)
    places = {
        node_id: (MARGIN + layer * (WIDTH + GAP_X), MARGIN + row * (HEIGHT + GAP_Y))
        for layer, ids in enumerate(rows)
        for row, node_id in enumerate(ids)
    }
    marks = {**dict.fromkeys(makes, "output"), **({current: "current"} if current else {})}
    marks |= {failed: "failed"} if failed else {}
    boxes = tuple(
        Box(
            node_id,
            _short(_title(graph, node_id)),
            _short(_value(graph, node_id)),
            marks.get(node_id, ""),
            *places[node_id],
        )
        for node_id in graph.nodes
    )
    edges = tuple(
        Edge(_curve(places[source], places[target]), source, target)
        for target, ids in sources.items()
        for source in dict.fromkeys(ids)
    )
    width = max((x for x, _ in places.values()), default=0) + WIDTH + MARGIN
    height = max((y for _, y in places.values()), default=0) + HEIGHT + MARGIN
    return Drawing(width, height, len(graph.nodes), boxes, edges)


def _layers(sources: Mapping[str, list[str]]) -> list[list[str]]:
    """Return the nodes by the length of the longest way to them. Links of a cycle, which no job has, are cut."""
    depth: dict[str, int] = {}
    # Without recursion, since a chain may be as long as the graph.
    for start in sources:
        waiting, open_nodes = [start], set[str]()
        while waiting:
            node_id = waiting[-1]
            missing = [one for one in sources[node_id] if one not in depth and one not in open_nodes]
            if missing and node_id not in depth:
                open_nodes.add(node_id)
                waiting += missing
                continue
            waiting.pop()
            depth.setdefault(node_id, 1 + max((depth.get(one, -1) for one in sources[node_id]), default=-1))
    layers: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for node_id in sources:
        layers[depth[node_id]].append(node_id)
    return layers


def _ordered(layers: list[list[str]], sources: Mapping[str, list[str]]) -> list[list[str]]:
    """Return the layers, each in the order in which few links cross: by the mean place of a node's neighbours."""
    targets: dict[str, list[str]] = {node_id: [] for node_id in sources}
    for target, ids in sources.items():
        for source in ids:
            targets[source].append(target)
    for sweep in range(SWEEPS):
        neighbours = sources if sweep % 2 == 0 else targets
        place = {node_id: row for ids in layers for row, node_id in enumerate(ids)}

        def mean(
            node_id: str, neighbours: Mapping[str, list[str]] = neighbours, place: Mapping[str, int] = place
        ) -> float:
            near = neighbours[node_id]
            return sum(place[one] for one in near) / len(near) if near else place[node_id]

        layers = [sorted(ids, key=mean) for ids in layers]
    return layers


def _curve(source: tuple[int, int], target: tuple[int, int]) -> str:
    x1, y1, x2, y2 = source[0] + WIDTH, source[1] + HEIGHT // 2, target[0], target[1] + HEIGHT // 2
    bend = max(24, (x2 - x1) // 2)
    return f"M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"


def _title(graph: Graph, node_id: str) -> str:
    meta = graph.nodes[node_id].rest.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return title if isinstance(title, str) and title else graph.nodes[node_id].class_type


def _value(graph: Graph, node_id: str) -> str:
    """Return the node's first value that is a text, or else its first value."""
    values = {
        name: value
        for name, value in graph.nodes[node_id].inputs.items()
        if as_link(value) is None and isinstance(value, str | int | float)
    }
    text = next((value for value in values.values() if isinstance(value, str) and value), None)
    if text is not None:
        return text
    return next((f"{name} {value}" for name, value in values.items()), "")


def _short(text: str) -> str:
    line = " ".join(text[:200].split())
    return line if len(line) <= MOST_TEXT else f"{line[: MOST_TEXT - 1]}…"

"""Arranges the nodes of a graph in layers from left to right, each behind all that it reads from. Pure."""

from collections.abc import Mapping

GAP_X, GAP_Y = 60, 22
MOST_ROWS = 24
"""Nodes that stand below each other. A layer of more takes several columns."""
SWEEPS = 4
"""Passes that order the nodes of each layer by the places of their neighbours."""

Sources = Mapping[str, list[str]]
"""The nodes that each node reads from."""


def in_layers(sources: Sources, width: int, height: int) -> dict[str, tuple[int, int]]:
    """Return the left upper corner of each node, for boxes of this size."""
    found: dict[str, tuple[int, int]] = {}
    column = 0
    for ids in _ordered(_layers(sources), sources):
        for position, node_id in enumerate(ids):
            across, row = divmod(position, MOST_ROWS)
            found[node_id] = ((column + across) * (width + GAP_X), row * (height + GAP_Y))
        column += -(-len(ids) // MOST_ROWS)
    return found


def _layers(sources: Sources) -> list[list[str]]:
    """Return the nodes by the length of the longest way to them. Links of a cycle, which no job has, are cut."""
    depth: dict[str, int] = {}
    # Without recursion, since a chain may be as long as the graph.
    for start in sources:
        path, opened = ([] if start in depth else [(start, iter(sources[start]))]), {start}
        while path:
            node_id, rest = path[-1]
            deeper = next((one for one in rest if one not in depth and one not in opened), None)
            if deeper is not None:
                opened.add(deeper)
                path.append((deeper, iter(sources[deeper])))
                continue
            path.pop()
            depth[node_id] = 1 + max((depth.get(one, -1) for one in sources[node_id]), default=-1)
    layers: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for node_id in sources:
        layers[depth[node_id]].append(node_id)
    return layers


def _ordered(layers: list[list[str]], sources: Sources) -> list[list[str]]:
    """Return the layers, each in the order in which few links cross: by the mean place of a node's neighbours."""
    targets: dict[str, list[str]] = {node_id: [] for node_id in sources}
    for target, ids in sources.items():
        for source in ids:
            targets[source].append(target)
    for sweep in range(SWEEPS):
        neighbours = sources if sweep % 2 == 0 else targets
        place = {node_id: row for ids in layers for row, node_id in enumerate(ids)}

        def mean(node_id: str, neighbours: Sources = neighbours, place: Mapping[str, int] = place) -> float:
            near = neighbours[node_id]
            return sum(place[one] for one in near) / len(near) if near else place[node_id]

        layers = [sorted(ids, key=mean) for ids in layers]
    return layers

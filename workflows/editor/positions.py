"""Where the nodes of an editor's file stand on its canvas. Nodes without a valid position are left out, not refused."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 210.0, 60.0
"""The size of a node whose size the file does not give."""
FARTHEST = 1_000_000.0
"""Coordinates beyond this are ignored. The editor's canvas has no bound, but published files stay far below."""


@dataclass(frozen=True, slots=True)
class CanvasNode:
    """A node on the canvas, without the bar of its title, which is above `y`.

    `title` is what the editor shows there; empty where that is the title of the node's class.
    """

    x: float
    y: float
    width: float
    height: float
    title: str = ""


def positions(raw: object) -> dict[str, CanvasNode]:
    """Return the root's nodes by id: those with a position. A subgraph is one node, with the name of its definition."""
    listed = raw.get("nodes") if isinstance(raw, Mapping) else None
    names = _definition_names(raw)
    found: dict[str, CanvasNode] = {}
    for node in listed if isinstance(listed, list) else ():
        if not isinstance(node, Mapping) or not isinstance(node.get("id"), int | str):
            continue
        place, size = _pair(node.get("pos")), _pair(node.get("size"))
        if place is None:
            continue
        width, height = size if size is not None and min(size) > 0 else (WIDTH, HEIGHT)
        if _is_collapsed(node):
            width, height = min(width, WIDTH), 0.0
        title = node.get("title")
        named = title if isinstance(title, str) and title else names.get(str(node.get("type")), "")
        found[str(node["id"])] = CanvasNode(*place, width, height, named)
    return found


def _is_collapsed(node: Mapping[str, Any]) -> bool:
    flags = node.get("flags")
    return isinstance(flags, Mapping) and bool(flags.get("collapsed"))


def _definition_names(raw: object) -> Mapping[str, str]:
    """Return the names of the subgraph definitions of the root by their ids."""
    definitions = raw.get("definitions") if isinstance(raw, Mapping) else None
    listed = definitions.get("subgraphs") if isinstance(definitions, Mapping) else None
    found = (one for one in (listed if isinstance(listed, list) else ()) if isinstance(one, Mapping))
    return {str(one.get("id")): name for one in found if isinstance(name := one.get("name"), str)}


def _pair(raw: Any) -> tuple[float, float] | None:
    """Return two finite numbers of a list, or of an object with the keys 0 and 1 as files of 2023 have it."""
    members = [raw.get("0"), raw.get("1")] if isinstance(raw, Mapping) else raw
    if not isinstance(members, list) or len(members) < 2:
        return None
    pair = members[:2]
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in pair):
        return None
    # Compared before the conversion, because a whole number may be too large for a float.
    if not all(-FARTHEST <= one <= FARTHEST for one in pair) or any(math.isnan(one) for one in pair):
        return None
    return float(pair[0]), float(pair[1])

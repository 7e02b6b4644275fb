"""Compares two graphs in API format: what our conversion made, and what the editor made."""

import json
from collections.abc import Mapping
from typing import Any

Graph = Mapping[str, Any]


def differences(ours: Graph, theirs: Graph, *, titles: Mapping[str, str]) -> list[str]:
    """Describe how the graphs differ; an empty list if they are the same.

    `titles` are the classes' names in object_info. A node without a title of its own is not compared by it, because
    the editor shows the name of the class in the reader's language. If only ids differ, the graphs are the same: the
    editor gives new ids to nodes of subgraph definitions whose ids another graph uses as well.
    """
    if _shape(ours) == _shape(theirs) and not ours.keys() <= theirs.keys():
        return []
    found = [f"node {node_id} is missing" for node_id in theirs if node_id not in ours]
    found += [f"node {node_id} is too much" for node_id in ours if node_id not in theirs]
    for node_id in ours.keys() & theirs.keys():
        found += [f"node {node_id}: {one}" for one in _node(ours[node_id], theirs[node_id], titles)]
    return sorted(found)


def _node(ours: Any, theirs: Any, titles: Mapping[str, str]) -> list[str]:
    if ours["class_type"] != theirs["class_type"]:
        return [f"is a {ours['class_type']}, and not a {theirs['class_type']}"]
    found = []
    for name in sorted({*ours["inputs"], *theirs["inputs"]}):
        mine, other = ours["inputs"].get(name, "nothing"), theirs["inputs"].get(name, "nothing")
        if _plain(mine) != _plain(other):
            found.append(f"{name} is {_plain(mine)[:80]}, and not {_plain(other)[:80]}")
    mine, other = dict(ours["_meta"]), dict(theirs["_meta"])
    if mine["title"] == (titles.get(ours["class_type"]) or ours["class_type"]):
        mine["title"] = other["title"]
    return found + ([f"_meta is {mine}, and not {other}"] if mine != other else [])


def _plain(value: Any) -> str:
    """Write a JSON value so that equal values have equal texts: 1.0 and 1 are the same number, 1 and true are not."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_plain(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_plain(one) for one in value) + "]"
    return json.dumps(value)


def _shape(graph: Graph) -> list[str]:
    """Describe every node by its class, its values and what it is linked to, without ids."""
    known: dict[str, str] = {}

    def described(node_id: str, above: tuple[str, ...]) -> str:
        if node_id in above or node_id not in graph:
            return "?"
        if node_id not in known:
            inputs = graph[node_id]["inputs"]
            parts = [
                f"{name}={described(value[0], (*above, node_id))}/{value[1]}"
                if isinstance(value, list)
                else _plain(value)
                for name, value in sorted(inputs.items())
            ]
            known[node_id] = str(hash((graph[node_id]["class_type"], *sorted(inputs), *parts)))
        return known[node_id]

    return sorted(described(node_id, ()) for node_id in graph)

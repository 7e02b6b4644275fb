"""Brings one socket's messages into an order that does not depend on what ComfyUI leaves open. Pure.

Messages are grouped by prompt; within a prompt, the messages of each node stand together, nodes in the order of their
depth in the graph. Whole snapshots (progress_state) become what changed in them.
"""

import itertools
from collections.abc import Mapping
from typing import Any

Frame = dict[str, Any]
_NODE_KEYS = ("node", "display_node")


def grouped(frames: list[Frame], graphs: Mapping[str, Any]) -> tuple[dict[str, list[Frame]], list[Frame]]:
    """Frames by prompt, in the order in which the prompts began; and the frames of no prompt."""
    runs: dict[str, list[Frame]] = {}
    others: list[Frame] = []
    current: str | None = None
    for frame in frames:
        prompt_id = _prompt_of(frame)
        if prompt_id is None and frame["type"] == "binary":
            prompt_id = current
        if prompt_id is None:
            others.append(frame)
            continue
        current = prompt_id
        runs.setdefault(prompt_id, []).append(frame)
    return {key: _ordered(_changes(run), graphs.get(key, {})) for key, run in runs.items()}, others


def _prompt_of(frame: Frame) -> str | None:
    data = frame["data"]
    if not isinstance(data, dict):
        return None
    found = data.get("prompt_id") or data.get("metadata", {}).get("prompt_id")
    return str(found) if found else None


def _changes(run: list[Frame]) -> list[Frame]:
    """Each progress_state as the node that changed in it; a node that vanished is told, for none should."""
    known: dict[str, Any] = {}
    told = []
    for frame in run:
        if frame["type"] != "progress_state":
            told.append(frame)
            continue
        nodes = frame["data"]["nodes"]
        changed = [nodes[node] for node in nodes if known.get(node) != nodes[node]]
        told += [{"type": "progress_state", "data": node} for node in changed]
        told += [{"type": "vanished", "data": {"node_id": node}} for node in known if node not in nodes]
        known = dict(nodes)
    return told


def sorted_steps(run: list[Frame]) -> list[Frame]:
    """A socket may open between the messages of one step: neighbours that tell of a step, sorted by type."""
    told: list[Frame] = []
    for is_step, neighbours in itertools.groupby(run, _tells_step):
        frames = list(neighbours)
        told += sorted(frames, key=lambda frame: str(frame["type"])) if is_step else frames
    return told


def _tells_step(frame: Frame) -> bool:
    if frame["type"] == "progress_state":
        return bool(frame["data"]["state"] == "running")
    return frame["type"] in ("progress", "binary")


def _ordered(run: list[Frame], graph: Mapping[str, Any]) -> list[Frame]:
    """Stable sort of the node messages between the run's beginning and its end, by depth and id of their node."""
    positions: list[tuple[int, str]] = []
    current = (-1, "")
    for frame in run:
        node = _node_of(frame)
        if frame["type"] in ("execution_error", "execution_interrupted", "execution_success"):
            node, current = None, (1_000_000, "")
        if frame["type"] == "executing" and frame["data"].get("node") is None:
            current = (1_000_000, "")
        if node is not None:
            current = (_depth(node, graph), node)
        positions.append(current)
    order = sorted(range(len(run)), key=lambda index: positions[index])
    return [run[index] for index in order]


def _node_of(frame: Frame) -> str | None:
    data = frame["data"]
    for source in (data, data.get("metadata", {})):
        for key in ("node", "node_id"):
            if source.get(key) is not None:
                return str(source[key])
    return None


def _depth(node_id: str, graph: Mapping[str, Any], above: int = 0) -> int:
    """The longest way from a source of the graph to this node. Recursion ends at `len(graph)`."""
    if node_id not in graph or above > len(graph):
        return 0
    inputs = graph[node_id].get("inputs", {}).values()
    sources = [value[0] for value in inputs if isinstance(value, list) and len(value) == 2]
    return 1 + max((_depth(str(source), graph, above + 1) for source in sources), default=0)

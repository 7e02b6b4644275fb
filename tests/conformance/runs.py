"""Sorts one socket's messages, so that their order does not depend on what ComfyUI leaves open. Pure.

Messages are grouped by prompt and then by node, with the nodes in order of their depth in the graph. Whole snapshots
(progress_state) become their changes.
"""

import itertools
from collections.abc import Mapping
from typing import Any

Frame = dict[str, Any]
_NODE_KEYS = ("node", "display_node")


def grouped(frames: list[Frame], graphs: Mapping[str, Any]) -> tuple[dict[str, list[Frame]], list[Frame]]:
    """Return the frames by prompt, in the order of the prompts' starts, and the frames without a prompt."""
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
    """Return each progress_state as the nodes that changed in it; a node that vanished, which should not happen, is
    reported."""
    known: dict[str, Any] = {}
    kept = []
    for frame in run:
        if frame["type"] != "progress_state":
            kept.append(frame)
            continue
        nodes = frame["data"]["nodes"]
        changed = [nodes[node] for node in nodes if known.get(node) != nodes[node]]
        kept += [{"type": "progress_state", "data": node} for node in changed]
        kept += [{"type": "vanished", "data": {"node_id": node}} for node in known if node not in nodes]
        known = dict(nodes)
    return kept


def sorted_steps(run: list[Frame]) -> list[Frame]:
    """Sort adjacent messages of a step by type, because a socket may open between them."""
    kept: list[Frame] = []
    for is_step, neighbours in itertools.groupby(run, _is_step):
        frames = list(neighbours)
        kept += sorted(frames, key=lambda frame: str(frame["type"])) if is_step else frames
    return kept


def _is_step(frame: Frame) -> bool:
    if frame["type"] == "progress_state":
        return bool(frame["data"]["state"] == "running")
    return frame["type"] in ("progress", "binary")


def _ordered(run: list[Frame], graph: Mapping[str, Any]) -> list[Frame]:
    """Sort node messages between the start and the end of a run stably, by depth and id of their node."""
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
    """Return the length of the longest path from a source of the graph. Recursion ends at `len(graph)`."""
    if node_id not in graph or above > len(graph):
        return 0
    inputs = graph[node_id].get("inputs", {}).values()
    sources = [value[0] for value in inputs if isinstance(value, list) and len(value) == 2]
    return 1 + max((_depth(str(source), graph, above + 1) for source in sources), default=0)

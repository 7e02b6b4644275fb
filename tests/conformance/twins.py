"""Nodes of one graph with equal class and inputs, of which ComfyUI runs any one. Pure."""

import json
from collections.abc import Mapping
from typing import Any


def settled(recording: Mapping[str, Any], graphs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Exchange ids in the recording so that the equal node with the smallest id is the one that ran.

    This is valid only for recordings of one prompt, because elsewhere the same id may be another node.
    """
    if len(graphs) != 1:
        return recording
    (graph,) = graphs.values()
    if not isinstance(graph, dict):
        return recording
    names: dict[str, str] = {}
    for twins in _twins(graph):
        ran = next((node for node in _executing(recording["ws"]) if node in twins), twins[0])
        names |= {ran: twins[0], twins[0]: ran}
    calls = [{**call, "response": _renamed(call.get("response"), names)} for call in recording["http"]]
    return {**recording, "http": calls, "ws": _renamed(recording["ws"], names)}


def _twins(graph: Mapping[str, Any]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for node_id, node in graph.items():
        if isinstance(node, dict):
            groups.setdefault(json.dumps(node, sort_keys=True), []).append(node_id)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _executing(log: list[dict[str, Any]]) -> list[str]:
    messages = [entry["data"] for entry in log if entry["type"] == "text"]
    return [message["data"]["node"] for message in messages if message["type"] == "executing"]


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value

"""Graphs for tests, and helpers that check them."""

import copy
import json
from pathlib import Path
from typing import Any

from storage.stores import Stores
from workers.lite.nodes import node_classes
from workflows.catalogue import Catalogue
from workflows.graph import Graph
from workflows.library import shipped

PUBLISHED = Path(__file__).parent.parent / "unit" / "workflows" / "published" / "object_info.json"


def example(name: str) -> dict[str, Any]:
    """Return a copy of a shipped workflow in API format."""
    return copy.deepcopy(dict(shipped()[name].graph))


def check(catalogue: Catalogue, graph: Graph) -> None:
    """Raise the first fault of the graph."""
    for fault in catalogue.check(graph).faults:
        raise fault


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


EMPTY = node("EmptyImage", width=32, height=16, batch_size=1, color=255)


def saved(source: str = "1", prefix: str = "out") -> dict[str, Any]:
    return node("SaveImage", images=[source, 0], filename_prefix=prefix)


PARTLY_GOOD = {"1": EMPTY, "2": saved("1"), "9": node("PreviewImage")}
"""A graph with an output that nothing uses."""


async def publish(stores: Stores) -> None:
    """Return what the lite engine declares, with some classes of packs."""
    lite = {name: declared.object_info() for name, declared in node_classes().items()}
    packs = {name: about for name, about in json.loads(PUBLISHED.read_text()).items() if name not in lite}
    await stores.engine_info.publish("default", lite | packs)


def slow(steps: int = 100, seconds: float = 0.1) -> dict[str, Any]:
    return node("LiteSlowSteps", image=["1", 0], steps=steps, seconds_per_step=seconds, preview=False)


def chain(length: int) -> dict[str, Any]:
    """Return a graph in which each node depends on the previous one."""
    nodes: dict[str, Any] = {"0": {"class_type": "PrimitiveString", "inputs": {"value": "x"}}}
    for number in range(1, length - 1):
        inputs = {"string_a": [str(number - 1), 0], "string_b": "", "delimiter": ""}
        nodes[str(number)] = {"class_type": "StringConcatenate", "inputs": inputs}
    nodes[str(length - 1)] = {"class_type": "PreviewAny", "inputs": {"source": [str(length - 2), 0]}}
    return nodes

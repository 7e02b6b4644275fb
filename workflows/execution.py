"""The document for POST /prompt: the graph as it was submitted, and one mark that makes its outputs run for this job.

ComfyUI answers an identical graph from its cache: it then names the old file and writes none. The cache's key covers
every input that the prompt gives to a node, also one that the node does not declare and so never receives. So each
output node gets an undeclared input with the job's token: it runs again, while all before it may be cached. So does a
node that names files although it is no output.
"""

from collections import deque
from collections.abc import Collection, Iterator
from typing import Any

from workflows.catalogue import Catalogue
from workflows.graph import Graph

TOKEN_INPUT = "_job"  # noqa: S105  a field's name
CACHE_NOTE = "is_changed"
"""What ComfyUI writes into a node for its cache, and so into the graph that a PNG carries."""


def for_execution(
    graph: Graph, catalogue: Catalogue, token: str, showing: Collection[str] = frozenset()
) -> dict[str, Any]:
    """`token` is unique to the attempt. Nothing that was submitted is changed or left out.

    `showing` are classes that name files, outputs or not: ComfyUI's Painter has a preview, for one.
    """
    document: dict[str, Any] = {
        node_id: {**node.rest, "class_type": node.class_type, "inputs": dict(node.inputs)}
        for node_id, node in graph.nodes.items()
    }
    for node_id in _to_be_run(graph, catalogue, showing):
        inputs = document[node_id]["inputs"]
        name = TOKEN_INPUT
        while name in inputs:
            name += "_"
        inputs[name] = token
    return document


def _to_be_run(graph: Graph, catalogue: Catalogue, showing: Collection[str]) -> frozenset[str]:
    """The output nodes, others that name files, and those that bring a note for the cache: a file of this name, but
    another job's, may be there.

    A class with open inputs would be given the mark, so the nearest node before it that has none is marked instead:
    what a node depends on is a part of its cache's key as well.
    """
    noted = (node_id for node_id, node in graph.nodes.items() if CACHE_NOTE in node.rest)
    shown = (node_id for node_id, node in graph.nodes.items() if node.class_type in showing)
    starts = [*catalogue.output_nodes(graph), *shown, *noted]
    nearest = (next(_closed(node_id, graph, catalogue), None) for node_id in starts)
    return frozenset(node_id for node_id in nearest if node_id is not None)


def _closed(node_id: str, graph: Graph, catalogue: Catalogue) -> Iterator[str]:
    """From here backwards, the nearest first."""
    seen: set[str] = set()
    waiting = deque([node_id])
    while waiting:
        current = waiting.popleft()
        if current in seen or current not in graph.nodes:
            continue
        seen.add(current)
        node = graph.nodes[current]
        if not catalogue.declaration(node.class_type).open_inputs:
            yield current
        else:
            waiting.extend(link.node_id for link in node.links().values())

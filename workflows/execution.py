"""The document for POST /prompt: the graph as it was submitted, and marks that keep ComfyUI's cache apart from jobs.

ComfyUI answers an identical graph from its cache: it then names the old file and writes none. The cache's key covers
every input that the prompt gives to a node, also one that the node does not declare and so never receives. So each
output node gets an undeclared input with the job's token: it runs again, while all before it may be cached. So does a
node that names files although it is no output.

A loader is known to the cache by the name that it is given, unless its class says how the file has changed, and many do
not: another job's file of that name, perhaps another tenant's, would be answered. So a node that names one of the job's
files gets a mark made of where these files lie in the bucket. That can be known to their tenant alone, and the same
upload is the same for the cache.
"""

import hashlib
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from workflows.catalogue import Catalogue
from workflows.graph import Graph, Node, as_link
from workflows.input_files import folder_and_name

TOKEN_INPUT = "_job"  # noqa: S105  a field's name
CACHE_NOTE = "is_changed"
"""What ComfyUI writes into a node for its cache, and so into the graph that a PNG carries."""
_BETWEEN_NAMES = re.compile(r"[\n,;|]")
_AROUND_NAMES = " \t\r\"'"


def for_execution(
    graph: Graph,
    catalogue: Catalogue,
    token: str,
    showing: Collection[str] = frozenset(),
    files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """`token` is unique to the attempt. Nothing that was submitted is changed or left out.

    `showing` are classes that name files, outputs or not: ComfyUI's Painter has a preview, for one. `files` are the
    keys of the job's files by their names in the input folder.
    """
    document: dict[str, Any] = {
        node_id: {**node.rest, "class_type": node.class_type, "inputs": dict(node.inputs)}
        for node_id, node in graph.nodes.items()
    }
    for node_id, mark in _marks(graph, catalogue, token, showing, files or {}).items():
        inputs = document[node_id]["inputs"]
        name = TOKEN_INPUT
        while name in inputs:
            name += "_"
        inputs[name] = mark
    return document


def _marks(
    graph: Graph, catalogue: Catalogue, token: str, showing: Collection[str], files: Mapping[str, str]
) -> dict[str, str]:
    """By node id. The token is the stronger one: no other job has it."""
    keys_by_segment: dict[str, set[str]] = {}
    for name, key in files.items():
        for segment in name.split("/"):
            keys_by_segment.setdefault(segment.strip(_AROUND_NAMES), set()).add(key)
    keys: dict[str, set[str]] = {}
    for node_id, node in graph.nodes.items() if files else ():
        named = {key for segment in _segments(node) for key in keys_by_segment.get(segment, ())}
        marked = next(_closed(node_id, graph, catalogue), None) if named else None
        if marked is not None:
            keys.setdefault(marked, set()).update(named)
    marks = {node_id: hashlib.sha256("\n".join(sorted(named)).encode()).hexdigest() for node_id, named in keys.items()}
    return marks | dict.fromkeys(_to_be_run(graph, catalogue, showing), token)


def _segments(node: Node) -> Iterator[str]:
    """The names of files and folders that the node's values may consist of, one or several to a text."""
    waiting = [value for value in node.inputs.values() if as_link(value) is None]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            for text in {value, *_BETWEEN_NAMES.split(value)}:
                name = folder_and_name(text.strip(_AROUND_NAMES))[1]
                yield from (segment.strip(_AROUND_NAMES) for segment in name.replace("\\", "/").split("/"))
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


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

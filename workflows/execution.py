"""Builds the document for POST /prompt: the submitted graph plus marks that separate jobs in ComfyUI's cache.

ComfyUI serves an identical graph from its cache: it then reports the old file and writes none. The cache key covers
every input that the prompt gives to a node, including undeclared ones, which the node never receives. So each output
node gets an undeclared input with the job's token: the output runs again, while its upstream nodes may be cached. The
same applies to nodes that report files without being outputs.

A loader's cache key holds only the file's name, unless its class reports changes of the file, and many do not. Another
job's file of that name, possibly another tenant's, would be served. So a node that names one of the job's files gets a
mark derived from the bucket keys of these files: by a file's, a folder's or the input folder's name in any case, by a
stem, or by a pattern. Only their tenant can know the keys, and the same upload gets the same mark, so it can still be
served from the cache. A name that the graph itself puts together is not recognised.
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
"""The member that ComfyUI adds to a node for its cache, and that a PNG's embedded graph therefore contains."""
_BETWEEN_NAMES = re.compile(r"[\n,;|]")
_AROUND_NAMES = " \t\r\"'"
_INPUT_FOLDER = (".", "input")
"""Names of the input folder itself, whose loaders read every file of the job."""
_PATTERN = re.compile(r"[^\s*?\[]*[*?\[]\S*")
"""A name that a loader may take for a pattern, which may match every file of the job. A prompt has spaces."""


def for_execution(
    graph: Graph,
    catalogue: Catalogue,
    token: str,
    showing: Collection[str] = frozenset(),
    files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the document for POST /prompt. Nothing that was submitted is changed or left out.

    `token` is unique to the attempt. `showing` are classes that report files without being outputs, such as ComfyUI's
    Painter with its preview. `files` maps names in the input folder to bucket keys.
    """
    document: dict[str, Any] = {
        node_id: {**node.rest, "class_type": node.class_type, "inputs": dict(node.inputs)}
        for node_id, node in graph.nodes.items()
    }
    for node_id, mark in _marks(graph, catalogue, token, showing, files or {}).items():
        inputs = document[node_id]["inputs"]
        name = TOKEN_INPUT
        # A submitted input of this name must not be overwritten.
        while name in inputs:
            name += "_"
        inputs[name] = mark
    return document


def _marks(
    graph: Graph, catalogue: Catalogue, token: str, showing: Collection[str], files: Mapping[str, str]
) -> dict[str, str]:
    """Return the marks by node id."""
    keys_by_name = _keys_by_name(files)
    keys: dict[str, set[str]] = {}
    for node_id, node in graph.nodes.items() if files else ():
        # A text may have a million parts that each stand for all files of the job, so equal ones count once.
        forms = {form for segment in _segments(node) if (form := _form(segment)) in keys_by_name}
        named = {key for form in forms for key in keys_by_name[form]}
        marked = next(_closed(node_id, graph, catalogue), None) if named else None
        if marked is not None:
            keys.setdefault(marked, set()).update(named)
    marks = {node_id: hashlib.sha256("\n".join(sorted(named)).encode()).hexdigest() for node_id, named in keys.items()}
    # The token replaces a mark of files: it is unique to the attempt, so nothing is served from the cache.
    return marks | dict.fromkeys(_to_be_run(graph, catalogue, showing), token)


def _keys_by_name(files: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the bucket keys by the names under which a loader may find the files: of files, folders, and stems."""
    found: dict[str, set[str]] = {name: set(files.values()) for name in _INPUT_FOLDER}
    for name, key in files.items():
        # By each folder as well, because a node may name only a folder and read all files in it.
        for segment in name.split("/"):
            written = segment.strip(_AROUND_NAMES).casefold()
            for form in {written, written.rpartition(".")[0] or written}:
                found.setdefault(form, set()).add(key)
    return found


def _form(segment: str) -> str:
    """Return the name by which the keys of the files are found that a loader may find by this one."""
    return "input" if _PATTERN.fullmatch(segment) else segment.casefold()


def _segments(node: Node) -> Iterator[str]:
    """Yield every file or folder name that the node's literal values may contain. One text may list several."""
    # Each part of a path counts: a node that names a folder reads the files in it.
    waiting = [value for value in node.inputs.values() if as_link(value) is None]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            for text in {value, *_BETWEEN_NAMES.split(value)}:
                name = folder_and_name(text.strip(_AROUND_NAMES))[1]
                yield from (segment.strip(_AROUND_NAMES) for segment in set(name.replace("\\", "/").split("/")))
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _to_be_run(graph: Graph, catalogue: Catalogue, showing: Collection[str]) -> frozenset[str]:
    """Return the nodes that must run again: outputs, nodes that report files, and nodes with a cache note."""
    # A submitted note would make the cache serve an old result, perhaps with another job's file of the same name.
    noted = (node_id for node_id, node in graph.nodes.items() if CACHE_NOTE in node.rest)
    shown = (node_id for node_id, node in graph.nodes.items() if node.class_type in showing)
    starts = [*catalogue.output_nodes(graph), *shown, *noted]
    # A class with open inputs would receive the mark as an argument, so the nearest node upstream without open inputs
    # is marked instead: a node's cache key includes those of the nodes that it depends on.
    nearest = (next(_closed(node_id, graph, catalogue), None) for node_id in starts)
    return frozenset(node_id for node_id in nearest if node_id is not None)


def _closed(node_id: str, graph: Graph, catalogue: Catalogue) -> Iterator[str]:
    """Yield the nodes without open inputs from this node upstream, the nearest first."""
    seen: set[str] = set()
    # Breadth first, so that the nearest nodes come first.
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

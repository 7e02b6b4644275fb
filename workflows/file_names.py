"""File names in a graph that would lead a loader out of the job's own input folder.

ComfyUI joins what a loader is given to its input folder, `..` included, and a mark at the end (`x.png [output]`) makes
it look into another folder. A job's files all lie in the input folder itself, and models by their names in the models'
folders, so a name that climbs, begins at a root or carries such a mark is a mistake or an attack.
"""

import re
from collections.abc import Iterator

from workflows.errors import UnsafeFileName, pointer
from workflows.graph import Graph

_LOADER = re.compile(r"load", re.IGNORECASE)
_OTHER_FOLDER = re.compile(r"\[(output|temp)\]\s*\Z")
_ROOTED = re.compile(r"\A\s*([/\\~]|[A-Za-z]:[/\\])")
_CLIMBS = re.compile(r"(\A|[/\\])\s*\.\.\s*([/\\]|\Z)")
_FIELDS_OF_TEXT = frozenset({"text", "prompt", "positive_prompt", "negative_prompt", "string", "title"})


def check_file_names(graph: Graph) -> None:
    """Raises `UnsafeFileName` for the first value of a loader (any class with `load` in its name) that leads away."""
    for node_id, name, value in _values_of_loaders(graph):
        fault = _fault(value)
        if fault:
            raise UnsafeFileName(
                f"{name} of node {node_id} is {value[:100]!r}, which {fault}",
                pointer=pointer(node_id, "inputs", name),
                node_id=node_id,
            )


def _values_of_loaders(graph: Graph) -> Iterator[tuple[str, str, str]]:
    for node_id, node in graph.nodes.items():
        if _LOADER.search(node.class_type):
            for name, value in node.inputs.items():
                if name not in _FIELDS_OF_TEXT:
                    yield from ((node_id, name, text) for text in _texts(value))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for part in value.values() for text in _texts(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in _texts(part))


def _fault(value: str) -> str | None:
    if "\0" in value:
        return "holds a NUL character"
    if _OTHER_FOLDER.search(value):
        return "names a file of another folder"
    if _ROOTED.search(value):
        return "begins at a root"
    if _CLIMBS.search(value):
        return "climbs out of its folder"
    return None

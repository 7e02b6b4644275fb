"""Detects file names in a graph that would lead a node out of the job's own input folder.

ComfyUI joins a loader's value to its input folder, `..` included, and a mark at the end (`x.png [output]`) selects
another folder; VideoHelperSuite strips quotes and blanks around a name first. A job's files are all in or below the
input folder, and models are named within the models' folders, so a name that climbs, is absolute or has such a mark is
a mistake or an attack. These rules are heuristics on the names of classes and inputs, so they apply only to strangers'
graphs (`workflows.strangers`).
"""

import re
from collections.abc import Iterator

from workflows.errors import UnsafeFileName, pointer
from workflows.graph import Graph, as_link

_LOADER = re.compile(r"load|webcam", re.IGNORECASE)
_FILE = re.compile(
    r"(.*[_ ])?(path|paths|folder|folders|file|files|filename|filenames|file_?name|file_?path|directory|dir)([_ ]name)?"
    r"|folder.*",
    re.IGNORECASE,
)
_MARK = "[input]"
_OTHER_FOLDERS = ("[output]", "[temp]")
_AROUND = " \t\r\n\v\f\"'"
_ROOTED = re.compile(r"\A\s*([/\\~]|[A-Za-z]:[/\\])")
_CLIMBS = re.compile(r"(\A|[/\\])\s*\.\.\s*([/\\]|\Z)")
_FIELDS_OF_TEXT = re.compile(r"(.*[_ .])?(text|prompt|positive|negative|string|title)", re.IGNORECASE)
_JPEG_IN_BASE64 = re.compile(r"\s*/9j/[A-Za-z0-9+/=\s]+\Z")
"""A JPEG in base64. It begins with `/`, but cannot climb in this alphabet, and no root folder has this name."""


def check_file_names(graph: Graph, ignored: frozenset[str] = frozenset()) -> None:
    """Raise `UnsafeFileName` for the first unsafe value of a loader's input, or of an input that is named like a file.

    `ignored` are the names of inputs that no node reads.
    """
    for node_id, node in graph.nodes.items():
        loads = is_loader(node.class_type)
        for name, value in node.inputs.items():
            if name in ignored:
                continue
            if (loads and not _FIELDS_OF_TEXT.fullmatch(name)) or names_a_file(name):
                fault = None if as_link(value) else fault_of_value(value)
                if fault:
                    raise UnsafeFileName(
                        f"{name} of node {node_id} {fault}", pointer=pointer(node_id, "inputs", name), node_id=node_id
                    )


def is_loader(class_type: str) -> bool:
    return _LOADER.search(class_type) is not None


def names_a_file(name: str) -> bool:
    """Report whether an input is named like a file or a folder. Of a dynamic input's part, the last name counts."""
    return _FILE.fullmatch(name.rpartition(".")[2]) is not None


def fault_of_value(value: object) -> str | None:
    """Return the fault of the first unsafe text within the value, to follow the input's name, or None."""
    for text in _texts(value):
        fault = _fault(text)
        if fault:
            return f"is {text[:100]!r}, which {fault}"
    return None


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for part in value.values() for text in _texts(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in _texts(part))


def _fault(value: str) -> str | None:
    if _JPEG_IN_BASE64.match(value):
        return None
    if "\0" in value:
        return "holds a NUL character"
    for form in _forms(value):
        if form.endswith(_OTHER_FOLDERS):
            return "names a file of another folder"
        if _ROOTED.search(form):
            return "begins at a root"
        if _CLIMBS.search(form):
            return "climbs out of its folder"
    return "carries several marks" if any(form.endswith(_MARK) for form in _without_mark(value)) else None


def _forms(value: str) -> Iterator[str]:
    """Yield the name in each form in which a node may read it: as given, stripped, and without a mark."""
    yield value
    yield value.strip().strip(_AROUND)
    yield from _without_mark(value)


def _without_mark(value: str) -> Iterator[str]:
    """Yield the name without its mark, with and without the character before it, which ComfyUI removes as well."""
    # Only one mark is removed: a text of 1 MiB may have 100,000 of them, and no file name has two.
    form = value.strip().strip(_AROUND)
    if form.endswith(_MARK):
        form = form.removesuffix(_MARK)
        yield form.strip(_AROUND)
        yield form[:-1].strip(_AROUND)

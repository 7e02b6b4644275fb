"""File names in a graph that would lead a node out of the job's own input folder.

ComfyUI joins what a loader is given to its input folder, `..` included, and a mark at the end (`x.png [output]`) makes
it look into another folder; VideoHelperSuite takes away quotes and blanks around a name before. A job's files all lie
in the input folder or below it, and models by their names in the models' folders, so a name that climbs, begins at a
root or carries such a mark is a mistake or an attack. These rules guess by the names of classes and inputs: they are
for graphs of strangers alone (`workflows.strangers`).
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
"""No climbing is possible in these characters, and there is no folder of this name at the root."""


def check_file_names(graph: Graph, ignored: frozenset[str] = frozenset()) -> None:
    """Raises `UnsafeFileName` for the first value that leads away: of a loader's inputs, or one named like a file.

    `ignored` are names of inputs that no node reads.
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
    """Whether an input is called like a file or a folder; of a part of a dynamic one, its own name counts."""
    return _FILE.fullmatch(name.rpartition(".")[2]) is not None


def fault_of_value(value: object) -> str | None:
    """In words that follow the input's name; None for a value that leads nowhere else, however deep its texts lie."""
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
    """The name as it stands, and as it may be read: without what is around it, and without a mark."""
    yield value
    yield value.strip().strip(_AROUND)
    yield from _without_mark(value)


def _without_mark(value: str) -> Iterator[str]:
    """With a mark ComfyUI takes away the character before it too, whatever it is.

    One mark alone is taken away: a text of a mebibyte may have 100,000 of them, and no file name has two.
    """
    form = value.strip().strip(_AROUND)
    if form.endswith(_MARK):
        form = form.removesuffix(_MARK)
        yield form.strip(_AROUND)
        yield form[:-1].strip(_AROUND)

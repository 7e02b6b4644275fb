"""Interprets a node's ui payload: the files to fetch and the values to keep. Pure.

ComfyUI's core names its lists `images`, `audio`, `3d`, `latents`, `text`, `result`; custom nodes use any name. So every
list item that describes a file is a file, whatever the list's name, and so is every string that names an existing file:
the 3D nodes report `{"result": ["3d/x.glb", null, []]}`. All other values become JSON, so nothing is lost.
"""

import json
import math
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from storage.jobs.models import OutputType
from workers.comfy.engine import FileRef

TEXT_KEY = "text"
MAX_NAMES = 1_000
"""Maximum strings of a node's payload that are tried as file names. The others are values."""
LONGEST_NAME = 4_096
MAX_LEVELS = 100
"""Levels of lists and objects in a value that is kept. Python's encoder fails at some hundreds."""
TOO_DEEP = "left out: nested too deeply"
PIECE_CHARACTERS = 64 * 1024
"""Characters of a value that are encoded at once, apart from those of a number."""
_FLAGS_BESIDE_FILES = frozenset({"animated"})
_FOLDERS = ("output", "temp", "input")
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_EMPTY: tuple[object, ...] = (None, "", [], {})

_BY_EXTENSION: Mapping[OutputType, frozenset[str]] = {
    "image": frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".svg", ".exr"}),
    "video": frozenset({".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v"}),
    "audio": frozenset({".flac", ".mp3", ".wav", ".opus", ".ogg", ".m4a", ".aac"}),
    "model": frozenset({".glb", ".gltf", ".obj", ".ply", ".stl", ".fbx", ".usdz", ".splat", ".ksplat", ".spz"}),
    "text": frozenset({".txt", ".json", ".md", ".csv", ".srt"}),
}


@dataclass(frozen=True, slots=True)
class InlineOutput:
    """A value of the payload itself, to be stored as a separate file: a picture, a text, or a list as JSON."""

    filename: str
    type: OutputType
    content_type: str
    value: bytes | str | list[Any]

    def pieces(self) -> Iterator[bytes]:
        """Yield the file's bytes in pieces. The JSON is on one line, with `strict_json`'s replacements."""
        match self.value:
            case bytes(body):
                yield body
            case str(text):
                yield from _encoded(_slices(text))
            case list(values):
                yield from _encoded(_json_tokens(values))


def names_in(ui: Mapping[str, Any]) -> list[str]:
    """Return the strings of a payload that may name files; only the engine knows whether such a file exists."""
    found: dict[str, None] = {}
    for values in ui.values():
        items = _items(values)
        for name in chain(_joined(items), _strings(items)):
            if len(found) >= MAX_NAMES:
                return list(found)
            if name.strip() and len(name) <= LONGEST_NAME:
                found[name] = None
    return list(found)


def outputs_of(
    node_id: str, ui: Mapping[str, Any], files: Mapping[str, FileRef] | None = None
) -> Iterator[FileRef | InlineOutput]:
    """Yield all outputs of the payload in order. `files` are those of `names_in` that exist."""
    named = {key: _named_files(_items(values), files or {}) for key, values in ui.items()}
    has_files = any(refs or any(map(_file_ref, _items(ui[key]))) for key, refs in named.items())
    listed: set[FileRef] = set()
    for key, values in ui.items():
        items = _items(values)
        refs = [ref for ref in map(_file_ref, items) if ref is not None]
        listed.update(refs)
        refs += [ref for ref in named[key] if ref not in listed]
        listed.update(refs)
        yield from refs
        rest = _rest(key, items, files or {})
        # `animated` describes the files of the payload, and empty values next to a named file are placeholders.
        if (
            not rest
            or (has_files and key in _FLAGS_BESIDE_FILES)
            or (named[key] and all(one in _EMPTY for one in rest))
        ):
            continue
        if key == TEXT_KEY and all(isinstance(item, str) for item in rest):
            yield from _texts(node_id, rest)
        else:
            yield InlineOutput(f"ui_output_{node_id}_{key}.json", "text", "application/json", rest)


def type_of(filename: str, content_type: str) -> OutputType:
    """Return the type by the extension, else by the content. SaveVideo lists its file under `images`, too."""
    extension = PurePosixPath(filename).suffix.lower()
    for kind, extensions in _BY_EXTENSION.items():
        if extension in extensions:
            return kind
    family = content_type.split("/", 1)[0]
    return next((kind for kind in _BY_EXTENSION if kind == family), "file")


def _items(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _joined(items: Sequence[Any]) -> list[str]:
    """Rejoin a string that a node returned as a list: ComfyUI splits it into characters."""
    if len(items) > 1 and all(isinstance(item, str) and len(item) == 1 for item in items):
        return ["".join(items)]
    return []


def _strings(items: list[Any]) -> Iterator[str]:
    """Yield strings at any depth, except in a file's description."""
    waiting: list[Any] = [items]  # iterative, because nodes choose the depth
    while waiting:
        match waiting.pop():
            case str(text):
                yield text
            case list(inner):
                waiting.extend(reversed(inner))
            case dict(inner) if _file_ref(inner) is None:
                waiting.extend(reversed(inner.values()))


def _named_files(items: list[Any], files: Mapping[str, FileRef]) -> list[FileRef]:
    """Return the named files, each once, in the payload's order."""
    names = chain(_joined(items), _strings(items)) if files else ()
    return list(dict.fromkeys(files[name] for name in names if name in files))


def _rest(key: str, items: Sequence[Any], files: Mapping[str, FileRef]) -> list[Any]:
    """Return the values that are not files. A text is kept even if it names a file."""
    if any(name in files for name in _joined(items)):
        return []
    is_text = key == TEXT_KEY  # whose reader may need a text that happens to name a file
    return [
        item
        for item in items
        if _file_ref(item) is None and (is_text or not isinstance(item, str) or item not in files)
    ]


def _file_ref(item: object) -> FileRef | None:
    """Return the file that an item describes; None if it lacks a name or a folder."""
    if not isinstance(item, Mapping) or not {"subfolder", "type"} & item.keys():  # `filename` alone may be a model's
        return None
    # VideoHelperSuite's `fullpath` is ignored: these three suffice and stay inside the folders.
    filename, subfolder, folder = item.get("filename"), item.get("subfolder", ""), item.get("type", "output")
    if not isinstance(filename, str) or not filename or not isinstance(subfolder, str) or folder not in _FOLDERS:
        return None
    # Normalised, so that two spellings of a path are one file.
    path = posixpath.normpath(posixpath.join(subfolder.replace("\\", "/"), filename))
    return FileRef(posixpath.basename(path), posixpath.dirname(path), folder)


def _texts(node_id: str, texts: list[str]) -> Iterator[InlineOutput]:
    for number, text in enumerate(texts):
        suffix = f"_{number + 1}" if len(texts) > 1 else ""
        yield InlineOutput(f"text_output_{node_id}{suffix}.txt", "text", "text/plain; charset=utf-8", text)


def _json_tokens(root: list[Any]) -> Iterator[str]:
    """Yield the tokens of a value as strict JSON, with `strict_json`'s replacements except those of surrogates."""
    # Iterative: a recursive generator would pass each token through all levels.
    waiting: list[tuple[Iterator[Any], str]] = [(iter([root]), "")]
    separator = ""
    while waiting:
        items, end = waiting[-1]
        for item in items:
            yield separator
            value = item
            if end == "}":
                name, value = item
                yield from _string_tokens(str(name))
                yield ": "
            separator = ", "
            if isinstance(value, str):
                yield from _string_tokens(value)
            elif not isinstance(value, dict | list | tuple):
                yield _scalar_token(value)
            elif len(waiting) > MAX_LEVELS:
                yield _ENCODER.encode(TOO_DEEP)
            else:
                yield "{" if isinstance(value, dict) else "["
                waiting.append((iter(value.items()), "}") if isinstance(value, dict) else (iter(value), "]"))
                separator = ""
                break
        else:
            waiting.pop()
            yield end
            separator = ", "


def _scalar_token(value: object) -> str:
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return repr(value)  # as the encoder does, which takes ten times as long to be called
    return "null" if isinstance(value, float) else _ENCODER.encode(value)


def _string_tokens(text: str) -> Iterator[str]:
    if len(text) <= PIECE_CHARACTERS:
        yield _ENCODER.encode(text)
        return
    yield '"'
    for part in _slices(text):
        yield _ENCODER.encode(part)[1:-1]
    yield '"'


def _slices(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE_CHARACTERS):
        yield text[start : start + PIECE_CHARACTERS]


def _encoded(tokens: Iterable[str]) -> Iterator[bytes]:
    """Join tokens to pieces of strict UTF-8: lone surrogates become `?`."""
    joined, length = [], 0
    for token in tokens:
        joined.append(token)
        length += len(token)
        if length >= PIECE_CHARACTERS:
            yield "".join(joined).encode(errors="replace")
            joined, length = [], 0
    yield "".join(joined).encode(errors="replace")


def strict_text(text: str) -> str:
    """Replace lone surrogates by `?`: a file name that is not UTF-8 appears in a node's message with them."""
    return text.encode(errors="replace").decode()


def strict_json(value: Any, levels: int = MAX_LEVELS) -> Any:
    """Replace NaN and infinities by null and make every string strict, so that no value prevents a record's write.

    Python's JSON parser accepts bare NaN and lone surrogates, neither of which strict JSON allows. Lists and objects
    below so many levels are replaced by `TOO_DEEP`.
    """
    if isinstance(value, str):
        return strict_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        if not levels:
            return TOO_DEEP
        return {strict_text(str(key)): strict_json(item, levels - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item, levels - 1) for item in value] if levels else TOO_DEEP
    return value

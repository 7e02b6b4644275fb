"""What a node's ui payload means: which files to fetch, which values to keep. Pure.

ComfyUI's core names its lists `images`, `audio`, `3d`, `latents`, `text`, `result`; custom nodes emit anything. So
every list item that describes a file is a file, whatever the list is called. So is every string that names one which
exists: the 3D nodes report `{"result": ["3d/x.glb", null, []]}`. Every other value becomes JSON: nothing is dropped.
"""

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from storage.jobs.models import OutputType
from workers.comfy.engine import FileRef
from workers.outputs.strict import strict_json, strict_text

TEXT_KEY = "text"
MAX_NAMES = 1_000
"""Strings of one node's payload that are looked up as file names. The others are values."""
LONGEST_NAME = 4_096
_FLAGS_BESIDE_FILES = frozenset({"animated"})
_FOLDERS = ("output", "temp", "input")
_EMPTY: tuple[object, ...] = (None, "", [], {})

_BY_EXTENSION: Mapping[OutputType, frozenset[str]] = {
    "image": frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".svg", ".exr"}),
    "video": frozenset({".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v"}),
    "audio": frozenset({".flac", ".mp3", ".wav", ".opus", ".ogg", ".m4a", ".aac"}),
    "model": frozenset({".glb", ".gltf", ".obj", ".ply", ".stl", ".fbx", ".usdz", ".splat", ".ksplat", ".spz"}),
    "text": frozenset({".txt", ".json", ".md", ".csv", ".srt"}),
}


@dataclass(frozen=True, slots=True)
class FileOutput:
    """A file that the node says it wrote."""

    ref: FileRef


@dataclass(frozen=True, slots=True)
class InlineOutput:
    """A value of the payload itself, to be stored as a file of its own."""

    filename: str
    type: OutputType
    content_type: str
    body: bytes


def names_in(ui: Mapping[str, Any]) -> list[str]:
    """The strings of a payload that may name files: whether such a file exists, only the engine can say."""
    found: dict[str, None] = {}
    for values in ui.values():
        items = _items(values)
        for name in (*_joined(items), *(name for item in items for name in _strings(item))):
            if len(found) >= MAX_NAMES:
                return list(found)
            if name.strip() and len(name) <= LONGEST_NAME:
                found[name] = None
    return list(found)


def outputs_of(
    node_id: str, ui: Mapping[str, Any], files: Mapping[str, FileRef] | None = None
) -> Iterator[FileOutput | InlineOutput]:
    """Everything that the payload holds, in its order. `files` are those of `names_in` that exist."""
    named = {key: _named_files(_items(values), files or {}) for key, values in ui.items()}
    has_files = any(refs or any(map(_file_ref, _items(ui[key]))) for key, refs in named.items())
    listed: set[FileRef] = set()
    for key, values in ui.items():
        items = _items(values)
        refs = [ref for ref in map(_file_ref, items) if ref is not None]
        listed.update(refs)
        refs += [ref for ref in named[key] if ref not in listed]
        listed.update(refs)
        yield from map(FileOutput, refs)
        rest = _rest(key, items, files or {})
        if (
            not rest
            or (has_files and key in _FLAGS_BESIDE_FILES)
            or (named[key] and all(one in _EMPTY for one in rest))
        ):
            continue
        if key == TEXT_KEY and all(isinstance(item, str) for item in rest):
            yield from _texts(node_id, rest)
        else:
            body = json.dumps(strict_json(rest), ensure_ascii=False, indent=1).encode()
            yield InlineOutput(f"ui_output_{node_id}_{key}.json", "text", "application/json", body)


def type_of(filename: str, content_type: str) -> OutputType:
    """By the extension, since a SaveVideo lists its file under `images` too; by the content where that says nothing."""
    extension = PurePosixPath(filename).suffix.lower()
    for kind, extensions in _BY_EXTENSION.items():
        if extension in extensions:
            return kind
    family = content_type.split("/", 1)[0]
    return next((kind for kind in _BY_EXTENSION if kind == family), "file")


def _items(values: Any) -> Sequence[Any]:
    return values if isinstance(values, list) else [values]


def _joined(items: Sequence[Any]) -> list[str]:
    """ComfyUI takes a string that a node gives for a list apart: its characters arrive."""
    if len(items) > 1 and all(isinstance(item, str) and len(item) == 1 for item in items):
        return ["".join(items)]
    return []


def _strings(item: Any) -> Iterator[str]:
    """At any depth, outside of what describes a file; without recursion, as the depth is a node's choice."""
    waiting = [item]
    while waiting:
        match waiting.pop():
            case str(text):
                yield text
            case list(inner):
                waiting.extend(reversed(inner))
            case Mapping() as inner if _file_ref(inner) is None:
                waiting.extend(reversed(list(inner.values())))


def _named_files(items: Sequence[Any], files: Mapping[str, FileRef]) -> list[FileRef]:
    """Each once, in the payload's order."""
    names = (*_joined(items), *(name for item in items for name in _strings(item))) if files else ()
    return list(dict.fromkeys(files[name] for name in names if name in files))


def _rest(key: str, items: Sequence[Any], files: Mapping[str, FileRef]) -> list[Any]:
    """The values that are not files. A text stays one, even if it names a file: somebody may want to read it."""
    if any(name in files for name in _joined(items)):
        return []
    is_text = key == TEXT_KEY
    return [
        item
        for item in items
        if _file_ref(item) is None and (is_text or not isinstance(item, str) or item not in files)
    ]


def _file_ref(item: object) -> FileRef | None:
    """A file has a name and says in which folder it lies: a mere `filename` may mean anything, a model for one.

    `fullpath`, which VideoHelperSuite adds, is ignored: the three names say it all, and stay inside the folders.
    """
    if not isinstance(item, Mapping) or not {"subfolder", "type"} & item.keys():
        return None
    filename, subfolder, folder = item.get("filename"), item.get("subfolder", ""), item.get("type", "output")
    if not isinstance(filename, str) or not filename or not isinstance(subfolder, str) or folder not in _FOLDERS:
        return None
    path = posixpath.normpath(posixpath.join(subfolder.replace("\\", "/"), filename))
    return FileRef(posixpath.basename(path), posixpath.dirname(path), folder)


def _texts(node_id: str, texts: list[str]) -> Iterator[InlineOutput]:
    for number, text in enumerate(texts):
        suffix = f"_{number + 1}" if len(texts) > 1 else ""
        yield InlineOutput(
            f"text_output_{node_id}{suffix}.txt", "text", "text/plain; charset=utf-8", strict_text(text).encode()
        )

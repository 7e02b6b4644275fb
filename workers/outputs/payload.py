"""What a node's ui payload means: which files to fetch, which values to keep. Pure.

ComfyUI's core names its lists `images`, `audio`, `3d`, `latents`, `text`; custom nodes emit anything. So every list
item that names a file is a file, whatever the list is called, and every other value becomes JSON: nothing is dropped.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from storage.jobs.values import OutputType
from workers.comfy.engine import FileRef
from workers.outputs.strict import strict_json, strict_text

TEXT_KEY = "text"
_FLAGS_BESIDE_FILES = frozenset({"animated"})
_FOLDERS = ("output", "temp", "input")

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


def outputs_of(node_id: str, ui: Mapping[str, Any]) -> Iterator[FileOutput | InlineOutput]:
    """Everything that the payload holds, in its order."""
    has_files = any(_file_ref(item) for values in ui.values() if isinstance(values, list) for item in values)
    for key, values in ui.items():
        items = values if isinstance(values, list) else [values]
        refs = [_file_ref(item) for item in items]
        yield from (FileOutput(ref) for ref in refs if ref is not None)
        rest = [item for item, ref in zip(items, refs, strict=True) if ref is None]
        if not rest or (has_files and key in _FLAGS_BESIDE_FILES):
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


def _file_ref(item: object) -> FileRef | None:
    """A file has a name and says in which folder it lies: a mere `filename` may mean anything, a model for one.

    `fullpath`, which VideoHelperSuite adds, is ignored: the three names say it all, and stay inside the folders.
    """
    if not isinstance(item, Mapping) or not {"subfolder", "type"} & item.keys():
        return None
    filename, subfolder, folder = item.get("filename"), item.get("subfolder", ""), item.get("type", "output")
    if not isinstance(filename, str) or not filename or not isinstance(subfolder, str) or folder not in _FOLDERS:
        return None
    return FileRef(filename, subfolder, folder)


def _texts(node_id: str, texts: list[str]) -> Iterator[InlineOutput]:
    for number, text in enumerate(texts):
        suffix = f"_{number + 1}" if len(texts) > 1 else ""
        yield InlineOutput(
            f"text_output_{node_id}{suffix}.txt", "text", "text/plain; charset=utf-8", strict_text(text).encode()
        )

"""The models that a workflow itself names, with their sources: official templates note them in the editor's file.

Anybody may have written the file. So a source is a https URL, a folder is one of ComfyUI's, a file's name stays in its
folder, and a file is of a format that holds weights and no code. What is not so is refused by name.
"""

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from infra.models.folders import MODEL_FOLDERS, PACK_FOLDERS
from infra.models.manifest import HUB, Model
from workflows.declarations import extension_of
from workflows.needs import NeededModel, needed_models, used_nodes

WEIGHTS = (".safetensors", ".sft", ".gguf", ".onnx")
"""The formats that hold weights alone. The others of ComfyUI are pickles, which can run code when they are loaded."""
FOLDERS = frozenset((*MODEL_FOLDERS, *PACK_FOLDERS.values()))
_ON_HUB = re.compile(r"/([^/]+/[^/]+)/(?:resolve|blob)/([^/]+)/(.+)")


@dataclass(slots=True)
class NamedModels:
    """The models that can be fetched, what is refused and why, and what has no source."""

    models: list[Model] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    without_source: list[str] = field(default_factory=list)


def models_named_by(document: Any) -> NamedModels:
    """Return the models of a workflow, an editor's file or a graph. Raises `WorkflowError` for another document."""
    found = NamedModels()
    names: set[str] = set()
    for needed in needed_models(document, used_nodes(document)):
        name = f"{needed.folder}/{needed.file}" if needed.folder else needed.file
        if needed.url is None:
            found.without_source.append(name)
        elif isinstance(model := _model(needed), str):
            found.refused.append((name, model))
        elif model.name.casefold() not in names:  # some file systems do not distinguish letters by case
            names.add(model.name.casefold())
            found.models.append(model)
    return found


def _model(needed: NeededModel) -> Model | str:
    """Return the model, or why it is refused."""
    if needed.folder not in FOLDERS:
        return f"{needed.folder!r} is none of ComfyUI's folders of models" if needed.folder else "it names no folder"
    if extension_of(needed.file) not in WEIGHTS:
        return f"only {', '.join(WEIGHTS)} are fetched, since files of other formats can run code"
    source = _source(needed.url or "")
    if isinstance(source, str):
        return source
    try:
        return Model(folder=needed.folder, file=needed.file, sha256=needed.sha256, named_by="workflow", **source)
    except ValidationError as error:
        fields = {str(one["loc"][0]) if one["loc"] else "it" for one in error.errors()}
        return f"{' and '.join(sorted(fields))} cannot be used: a name has letters, digits, dots, _, - and blanks"


def _source(url: str) -> dict[str, Any] | str:
    """Return the members of a `Model` for a URL, or why it is refused."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "its URL is malformed"
    if parts.scheme != "https" or not parts.hostname or port not in (None, 443) or "@" in parts.netloc:
        return "its source is no https URL without a port and a user"
    path = unquote(parts.path)
    if any(segment in ("", ".", "..") for segment in path.split("/")[1:]):
        return "its URL's path is not plain"
    on_hub = _ON_HUB.fullmatch(parts.path) if parts.hostname == urlsplit(HUB).hostname else None
    if on_hub is not None:
        return {"repository": on_hub[1], "revision": unquote(on_hub[2]), "path": unquote(on_hub[3])}
    return {"url": url.partition("#")[0]}

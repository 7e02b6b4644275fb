"""What a workflow says that it needs: packs of node classes, and model files with the places to get them.

Nothing here depends on an engine. The editor writes into the properties of a node which pack its class comes from
(`cnr_id` of the registry, `aux_id` on GitHub, `ver`), and official templates also where its models are (`models`). The
API format keeps the pack in `_meta`.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from workflows.declarations import extension_of
from workflows.editor.document import BYPASS, NEVER, parse_document
from workflows.editor.flatten import VIRTUAL
from workflows.graph import is_editor_file, parse_graph
from workflows.model_files import MODEL_EXTENSIONS

CORE = "comfy-core"
"""The registry's id of ComfyUI itself."""
MOST_MODELS = 1_000
"""Model files of one workflow that are listed."""
MOST_VERSIONS = 20
"""Versions of one pack that are listed: nodes of one file may be of different ones."""
MOST_CLASSES = 5
"""Classes of nodes that are listed for one model."""
LONGEST_NAME = 500
"""Characters of a name or URL that is listed; longer ones are ignored."""
DEEPEST_VALUE = 4
"""Levels of a widget's value in which a model's name is searched."""
_EMBEDDINGS = "embeddings"
_COMMIT = re.compile(r"[0-9a-fA-F]{7,40}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class UsedNode:
    """An active node: its class, the values in it, and what the editor noted about it."""

    kind: str
    values: Any
    properties: Mapping[str, Any]


@dataclass(slots=True)
class Pack:
    """A pack of node classes. `registry_id` or `repository` (owner/name on GitHub) may be unknown, or both."""

    registry_id: str | None
    repository: str | None
    versions: set[str] = field(default_factory=set)
    commits: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)


@dataclass(slots=True)
class NeededModel:
    """A model file, as a loader's input names it. `folder` is ComfyUI's name for its kind, if it is known.

    `url` and `sha256` are those that the workflow names, unchecked. `classes` are classes of the nodes with it, at most
    `MOST_CLASSES`.
    """

    file: str
    folder: str | None = None
    url: str | None = None
    sha256: str | None = None
    classes: set[str] = field(default_factory=set)


def used_nodes(document: object) -> list[UsedNode]:
    """Return the active nodes of an editor's file, subgraphs included, or of a graph. Raises `WorkflowError`."""
    if not is_editor_file(document):
        graph = parse_graph(document)
        return [UsedNode(node.class_type, dict(node.inputs), _meta(node.rest)) for node in graph.nodes.values()]
    parsed = parse_document(document)
    return [
        UsedNode(node.kind, node.values, node.properties)
        for graph in parsed.graphs()
        for node in graph.nodes.values()
        if node.mode not in (NEVER, BYPASS) and node.kind not in VIRTUAL and node.kind not in parsed.definitions
    ]


def needed_packs(nodes: list[UsedNode], known_pack: Mapping[str, str]) -> list[Pack]:
    """Return the packs in the order of their nodes. `known_pack` is the pack of each class that an engine has."""
    found: dict[str, Pack] = {}
    for node in nodes:
        registry_id, repository = (_name(node.properties.get(name)) for name in ("cnr_id", "aux_id"))
        known = known_pack.get(node.kind, "")
        if registry_id is None and repository is None and known == CORE:
            registry_id = CORE
        key = (registry_id or repository or known).casefold()
        pack = found.setdefault(key, Pack(registry_id, repository))
        pack.repository = pack.repository or repository
        pack.classes.add(node.kind[:LONGEST_NAME])
        version = _name(node.properties.get("ver"))
        if version is not None and version != "unknown":
            is_commit = _COMMIT.fullmatch(version) is not None
            kept = pack.commits if is_commit else pack.versions
            if len(kept) < MOST_VERSIONS:
                kept.add(version if is_commit else version.removeprefix("v"))
    return list(found.values())


def needed_models(document: object, nodes: list[UsedNode]) -> list[NeededModel]:
    """Return the model files that nodes name in their values, with the source that the workflow names for them.

    A node's note of a model that no value names is ignored: it is left from a model that was chosen before. An
    embedding is named inside a prompt, so its note always counts.
    """
    used: dict[str, set[str]] = {}
    for node in nodes:
        for name in _model_names(node.values):
            _add_class(used.setdefault(name, set()), node.kind)
    for name in _promoted_names(document):
        used.setdefault(name, set())
    named = _sources(nodes)
    by_name: dict[str, list[NeededModel]] = {}
    for model in named.values():
        by_name.setdefault(posixpath.basename(model.file), []).append(model)
    found = (model for file, classes in used.items() for model in _with_sources(file, classes, by_name))
    names = {posixpath.basename(file) for file in used}
    prompts = (
        model for model in named.values() if model.folder == _EMBEDDINGS and posixpath.basename(model.file) not in names
    )
    return list(islice(chain(found, prompts), MOST_MODELS))


def _with_sources(file: str, classes: set[str], by_name: Mapping[str, list[NeededModel]]) -> Iterator[NeededModel]:
    """Yield the file for each folder that the workflow names for it, or once without a folder."""
    sources = by_name.get(posixpath.basename(file))
    if sources is None:
        yield NeededModel(file, classes=classes)
    for one in sources or ():
        yield NeededModel(file, one.folder, one.url, one.sha256, classes)


def _sources(nodes: list[UsedNode]) -> dict[tuple[str, str], NeededModel]:
    """Return the nodes' notes of models, by folder and file."""
    found: dict[tuple[str, str], NeededModel] = {}
    for node in nodes:
        listed = node.properties.get("models")
        for entry in listed if isinstance(listed, list) else ():
            if not isinstance(entry, Mapping):
                continue
            file, folder, url = (_name(entry.get(name)) for name in ("name", "directory", "url"))
            if file is not None and len(found) < MOST_MODELS:
                needed = NeededModel(file.replace("\\", "/"), folder, url, _sha256(entry))
                model = found.setdefault((folder or "", needed.file), needed)
                _add_class(model.classes, node.kind)
    return found


def _add_class(classes: set[str], kind: str) -> None:
    # A thousand models may each be named by a thousand classes.
    if len(classes) < MOST_CLASSES:
        classes.add(kind[:LONGEST_NAME])


def _sha256(entry: Mapping[str, Any]) -> str | None:
    digest, kind = entry.get("hash"), entry.get("hash_type")
    if not isinstance(digest, str) or not isinstance(kind, str) or kind.lower().replace("-", "") != "sha256":
        return None
    return digest.lower() if _SHA256.fullmatch(digest) else None


def _promoted_names(document: object) -> Iterator[str]:
    """Yield the model files among the values of subgraph instances, which replace those of the nodes inside."""
    if is_editor_file(document):
        parsed = parse_document(document)
        for graph in parsed.graphs():
            for node in graph.nodes.values():
                if node.kind in parsed.definitions and node.mode not in (NEVER, BYPASS):
                    yield from _model_names(node.values)


def _model_names(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield the texts in a value that name a model file."""
    if isinstance(value, str):
        if len(value) <= LONGEST_NAME and extension_of(value) in MODEL_EXTENSIONS and _is_one_name(value):
            yield value.replace("\\", "/")
    elif depth < DEEPEST_VALUE and isinstance(value, list | Mapping):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _model_names(one, depth + 1)


def _is_one_name(text: str) -> bool:
    """Report whether a text can be a file's name, rather than a sentence or a URL that ends like one."""
    return "\n" not in text and "://" not in text and bool(text.rpartition(".")[0].rpartition("/")[2])


def _meta(rest: Mapping[str, Any]) -> Mapping[str, Any]:
    about = rest.get("_meta")
    return about if isinstance(about, Mapping) else {}


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= LONGEST_NAME else None

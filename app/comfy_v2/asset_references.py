"""Replaces the assets that a graph names by input files of the job.

An asset is named by a handle, `{"__type": "core/ASSET", "info": {"id": …}}` at any depth of a node's inputs, or by its
file path where a node takes an uploaded file. The name of a model, or any other text, is never looked up.
"""

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.body import Body
from app.comfy_v2.errors import ComfyProblem
from app.problems import Problem
from app.submission.input_files import collides, is_usable_name, plain_name
from app.submission.preparation import Preparation
from app.submission.request import JobRequest, MediumSource
from storage.assets import Asset
from storage.concurrency import map_bounded
from storage.errors import AssetNotFound, FileRefused, UploadIncomplete
from workflows.catalogue import Catalogue
from workflows.file_names import is_loader

HANDLE = "core/ASSET"
MAX_NAMES = 100
"""Different file names of one graph that are looked up."""
_FILE_INPUTS = frozenset({"image", "mask", "audio", "video", "file", "model_file"})
"""Inputs of loaders that take uploaded files, for the time before the engine has published its declarations."""


@dataclass(slots=True)
class _Slots:
    """Where a graph names assets: the containers of handles and the inputs with names, each with its key."""

    handles: list[tuple[Any, Any, Any]] = field(default_factory=list)
    names: list[tuple[dict[str, Any], str, str]] = field(default_factory=list)


async def with_assets(preparation: Preparation, request: JobRequest, body: Body, *, most: int) -> JobRequest:
    """Return the request with its assets as `media`. Raises `Problem` if there are more than `most` of them."""
    graph = await preparation.document(request.workflow)
    if not isinstance(graph, dict):
        return request
    catalogue = await preparation.catalogue(request.gpu)
    slots = await body.aside(_slots, graph, catalogue)
    ids = list(dict.fromkeys(_id_of(handle) or "" for *_, handle in slots.handles))
    names = list(dict.fromkeys(name for *_, name in slots.names))
    if len(ids) > most or len(names) > MAX_NAMES:
        detail = f"the workflow names {len(ids)} assets and {len(names)} files, at most {most} are allowed"
        raise Problem("too-many-media", detail, pointer="/workflow")
    by_id = dict(zip(ids, await map_bounded(ids, lambda one: _found(preparation, one)), strict=True))
    if missing := [asset_id for asset_id, asset in by_id.items() if asset is None]:
        raise _missing(missing)
    by_name = dict(zip(names, await map_bounded(names, preparation.asset_named), strict=True))
    used = {asset.asset_id: asset for asset in (*by_id.values(), *by_name.values()) if asset is not None}
    staged = _staged(list(used.values()))
    for container, key, handle in slots.handles:
        container[key] = staged[_id_of(handle) or ""]
    for inputs, name, value in slots.names:
        if (asset := by_name[value]) is not None:
            inputs[name] = staged[asset.asset_id]
    media = [MediumSource(name=name, asset_id=asset_id) for asset_id, name in staged.items()]
    return request.model_copy(update={"workflow": graph, "media": media})


async def _found(preparation: Preparation, asset_id: str) -> Asset | None:
    try:
        return await preparation.asset(asset_id)
    except (AssetNotFound, UploadIncomplete, FileRefused):
        return None


def _missing(ids: list[str]) -> Problem:
    shown = ", ".join(repr(asset_id[:100]) for asset_id in ids[:5])
    message = f"there is no asset {shown}; upload the file again, or see whether it has expired"
    return ComfyProblem(
        "missing_asset",
        message,
        slug="unknown-asset",
        pointer="/workflow",
        details={"missing_ids": [asset_id[:100] for asset_id in ids]},
    )


def _slots(graph: dict[str, Any], catalogue: Catalogue) -> _Slots:
    slots = _Slots()
    for node in graph.values():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if not isinstance(inputs, dict):
            continue
        for name, value in inputs.items():
            if isinstance(value, str):
                if value and _takes_a_file(catalogue, node.get("class_type"), name):
                    slots.names.append((inputs, name, value))
            else:
                slots.handles += _handles(inputs, name, value)
    return slots


def _handles(container: Any, key: Any, value: Any) -> Iterator[tuple[Any, Any, Any]]:
    # The depth of a document is bounded where it is received.
    if isinstance(value, dict):
        if value.get("__type") == HANDLE:
            yield container, key, value
            return
        for name, member in list(value.items()):
            yield from _handles(value, name, member)
    elif isinstance(value, list):
        for position, member in enumerate(value):
            yield from _handles(value, position, member)


def _id_of(handle: Mapping[str, Any]) -> str | None:
    """Return the id in a handle; None for a malformed one, which names no asset."""
    info = handle.get("info")
    asset_id = info.get("id") if isinstance(info, Mapping) else None
    return asset_id if isinstance(asset_id, str) and asset_id else None


def _takes_a_file(catalogue: Catalogue, class_type: Any, name: str) -> bool:
    if not isinstance(class_type, str):
        return False
    if not catalogue.is_known:
        return name in _FILE_INPUTS and is_loader(class_type)
    declared = catalogue.declaration(class_type).inputs.get(name)
    return declared is not None and bool(declared.uploads)


def _staged(assets: list[Asset]) -> dict[str, str]:
    """Return a name in the engine's input folder for each asset: its file path if that can be one."""
    names: dict[str, str] = {}
    for position, asset in enumerate(assets):
        name = asset.file_path or ""
        if not is_usable_name(name) or collides(name, names.values()):
            name = f"asset_{position}_{plain_name(posixpath.basename(name) or asset.asset_id)}"
        names[asset.asset_id] = name
    return names

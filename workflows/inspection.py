"""What a workflow is made of and what an engine lacks for it: packs, models, inputs and outputs.

The workflow is an editor's file or a graph in API format. An editor's file that cannot be converted has no inputs and
outputs here, and the reason why; its packs and models are listed all the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflows.catalogue import Catalogue
from workflows.editor import convert, unknown_nodes
from workflows.errors import WorkflowError
from workflows.graph import Graph, is_editor_file, parse_graph
from workflows.inventory import Model, folder_of_loader
from workflows.needs import (
    CORE,
    NeededModel,
    Pack,
    UsedNode,
    needed_models,
    needed_packs,
    used_nodes,
)
from workflows.proposals import LONGEST_TITLE, ProposedInput, propose

MOST_OUTPUTS = 1_000
"""Output nodes of one workflow that are listed."""
_ALIASES = {"clip": "text_encoders", "unet": "diffusion_models"}
"""Older names of ComfyUI's folders, whose files the same loaders list."""


@dataclass(frozen=True, slots=True)
class FoundPack:
    """A pack, and those of its classes that the engine lacks; None if the engine's classes are not known."""

    pack: Pack
    missing: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model file, and whether the engine has it; None if that is not known."""

    model: NeededModel
    is_present: bool | None


@dataclass(frozen=True, slots=True)
class OutputNode:
    node: str
    class_type: str
    title: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an editor's file was not converted, and what to do."""

    message: str
    hint: str
    node_id: str | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """`workflow` is the graph in API format, or None with the `refusal` that says why there is none."""

    is_editor_file: bool
    packs: Sequence[FoundPack]
    models: Sequence[FoundModel]
    workflow: Mapping[str, Any] | None
    refusal: Refusal | None
    inputs: Sequence[ProposedInput]
    outputs: Sequence[OutputNode]
    missing_classes: Sequence[str]

    @property
    def missing_models(self) -> Sequence[NeededModel]:
        return [found.model for found in self.models if found.is_present is False]


def inspect(document: Any, catalogue: Catalogue, models: Sequence[Model] | None) -> Inspection:
    """Inspect a workflow. Raises `WorkflowError` for what is neither an editor's file nor a graph.

    `models` are the files that the engine lists, or None if that is not known.
    """
    nodes = used_nodes(document)
    lacking = [] if not catalogue.is_known else sorted({node.kind for node in nodes if node.kind not in catalogue})
    workflow, refusal = _graph(document, catalogue, lacking)
    graph = parse_graph(workflow) if workflow is not None else None
    return Inspection(
        is_editor_file=is_editor_file(document),
        packs=_packs(nodes, catalogue, lacking),
        models=_models(document, nodes, graph, models),
        workflow=workflow,
        refusal=refusal,
        inputs=propose(document, workflow, catalogue) if workflow is not None else [],
        outputs=_outputs(graph, catalogue) if graph is not None else [],
        missing_classes=lacking,
    )


def _graph(
    document: Any, catalogue: Catalogue, lacking: Sequence[str]
) -> tuple[Mapping[str, Any] | None, Refusal | None]:
    if not is_editor_file(document):
        return document, None
    if not catalogue.is_known:
        return None, Refusal(
            "the engine's node classes are not known yet, and the conversion needs them",
            "start a worker first, which publishes them",
        )
    if unknown_nodes(document, catalogue):
        named = ", ".join(lacking[:5]) + (" …" if len(lacking) > 5 else "")
        return None, Refusal(
            f"the engine lacks the node classes {named}, and the conversion needs them",
            catalogue.remedy,
        )
    try:
        workflow = convert(document, catalogue).workflow
        parse_graph(workflow)  # its names and inputs may exceed the limits of a graph
    except WorkflowError as error:
        return None, Refusal(error.message, error.hint, error.node_id)
    return workflow, None


def _packs(nodes: list[UsedNode], catalogue: Catalogue, lacking: Iterable[str]) -> list[FoundPack]:
    known = {node.kind: catalogue.pack(node.kind) or CORE for node in nodes if node.kind in catalogue}
    missing = set(lacking)
    return [
        FoundPack(pack, sorted(pack.classes & missing) if catalogue.is_known else None)
        for pack in needed_packs(nodes, known)
    ]


def _models(
    document: Any, nodes: list[UsedNode], graph: Graph | None, listed: Sequence[Model] | None
) -> list[FoundModel]:
    found = needed_models(document, nodes)
    folders = _folders(graph) if graph is not None else {}
    for model in found:
        model.folder = model.folder or folders.get(model.file)
    present = None if listed is None else {(model.folder, model.name) for model in listed}
    anywhere = {name for _, name in present or ()}
    return [FoundModel(model, None if present is None else _is_present(model, present, anywhere)) for model in found]


def _is_present(model: NeededModel, present: set[tuple[str | None, str]], anywhere: set[str]) -> bool:
    if model.folder is None:
        return model.file in anywhere
    folder = _ALIASES.get(model.folder, model.folder)
    # A file that only custom nodes list has no folder.
    return (folder, model.file) in present or (None, model.file) in present


def _folders(graph: Graph) -> dict[str, str]:
    """Return the folder of each file that one of ComfyUI's own loaders takes."""
    found: dict[str, str] = {}
    for node in graph.nodes.values():
        for name, value in node.inputs.items():
            folder = folder_of_loader(node.class_type, name) if isinstance(value, str) else None
            if folder is not None:
                found.setdefault(value.replace("\\", "/"), folder)
    return found


def _outputs(graph: Graph, catalogue: Catalogue) -> list[OutputNode]:
    ids = catalogue.output_nodes(graph) if catalogue.is_known else graph.loose_ends()
    found: list[OutputNode] = []
    for node_id, node in graph.nodes.items():
        if node_id in ids and len(found) < MOST_OUTPUTS:
            about = node.rest.get("_meta")
            title = about.get("title") if isinstance(about, Mapping) else None
            shown = title[:LONGEST_TITLE] if isinstance(title, str) else node.class_type
            found.append(OutputNode(node_id, node.class_type, shown))
    return found

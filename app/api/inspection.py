"""POST /v1/workflows/inspect: what a workflow needs, and what this deployment lacks for it."""

from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import answer, context_of
from app.api.workflow_body import WorkflowRequest, workflow_body
from app.fields import ResponseBody
from app.heavy import off_loop
from app.operations import BODY_PROBLEMS, WORKFLOW, Operation
from app.problems import of_workflow
from app.submission.preparation import check_nodes
from storage.pools.engine_info import Published
from workflows.catalogue import Catalogue
from workflows.editor import placed_nodes
from workflows.errors import WorkflowError
from workflows.graph import is_editor_file
from workflows.inspection import FoundModel, FoundPack, Inspection, inspect
from workflows.manifest import InputType
from workflows.proposals import ProposedInput, Source


class InspectionRequest(WorkflowRequest):
    """A workflow of any form that POST /v1/jobs takes."""

    workflow: Any = Field(description="what ComfyUI's editor saves, or a graph in API format")
    gpu: str | None = Field(None, description="the GPU pool that counts; null: the default pool")


class NeededPack(ResponseBody):
    """A pack of node classes. All of its names are those that the file itself has; they are not checked."""

    registry_id: str | None = Field(description="its id at ComfyUI's registry; comfy-core is ComfyUI itself")
    repository: str | None = Field(description="owner/name on GitHub, for packs that the registry does not have")
    versions: list[str] = Field(description="with which the file was made")
    commits: list[str] = Field(description="with which the file was made")
    classes: list[str] = Field(description="the classes of it that the workflow uses")
    missing: list[str] | None = Field(description="those that this deployment lacks; null while that is not known")


class ModelNeed(ResponseBody):
    """A model file that the workflow names."""

    folder: str | None = Field(description="ComfyUI's folder of models; null where neither file nor class says it")
    file: str = Field(description="as the loader's input has it")
    url: str | None = Field(description="where the workflow says to get it; not checked")
    sha256: str | None = Field(description="as the workflow has it; not checked")
    classes: list[str] = Field(description="the classes of the nodes that name it")
    is_present: bool | None = Field(description="whether this deployment lists it; null while that is not known")


class TypedInput(ResponseBody):
    """A value that callers of a named workflow could set, as `comfyui-modal workflows add` writes it."""

    name: str
    type: InputType
    places: list[str] = Field(description="NODE.FIELD in the converted graph")
    description: str
    default: Any = Field(description="the graph's own value; null for a file")
    min: float | None
    max: float | None
    choices: list[str]
    source: Source = Field(description="why it is proposed; other: it is not, and is only listed")
    origin: str = Field(description="the node that it belongs to, in words")


class OutputView(ResponseBody):
    """A node that saves or shows something."""

    node: str
    class_type: str
    title: str


class ConversionRefusal(ResponseBody):
    """Why a file of the editor could not be converted."""

    detail: str
    hint: str
    node: str | None


class Inspected(ResponseBody):
    """What a workflow is made of."""

    format: str = Field(description="editor or api")
    packs: list[NeededPack]
    models: list[ModelNeed]
    inputs: list[TypedInput] = Field(description="the proposed ones first; empty if the file could not be converted")
    outputs: list[OutputView]
    missing_classes: list[str] = Field(description="node classes that this pool of the deployment does not have")
    missing_models: list[str] = Field(description="files that it does not have, as folder/file where that is known")
    refusal: ConversionRefusal | None = Field(description="null for a workflow that was converted, or needs none")


async def submit(request: Request) -> Response:
    context = context_of(request)
    async with workflow_body(request, InspectionRequest) as (wanted, pool):
        engine_info = context.stores.engine_info
        catalogue, published = await engine_info.catalogue(pool), await engine_info.published(pool)
        are_known = published is not None and published.files_are_known(context.stores.clock.now())
        # Off the loop whatever the size of the body: listing an engine's models may take a second the first time.
        most, files = context.config.max_nodes, published if are_known else None
        return await off_loop(lambda: answer(_inspected(wanted.workflow, catalogue, files, most)))


def _inspected(document: Any, catalogue: Catalogue, published: Published | None, most_nodes: int) -> Inspected:
    """Inspect off the event loop. Raises `Problem`."""
    try:
        if isinstance(document, dict):  # anything else is refused as no workflow
            count = placed_nodes(document) if is_editor_file(document) else len(document)
            check_nodes(count, most_nodes, "/workflow")
        return inspected(inspect(document, catalogue, None if published is None else published.models))
    except WorkflowError as error:
        raise of_workflow(error, "/workflow") from error


def inspected(found: Inspection) -> Inspected:
    refusal = found.refusal
    missing = (model.file if model.folder is None else f"{model.folder}/{model.file}" for model in found.missing_models)
    return Inspected(
        format="editor" if found.is_editor_file else "api",
        packs=[_pack(one) for one in found.packs],
        models=[_model(one) for one in found.models],
        inputs=[_input(one) for one in found.inputs],
        outputs=[OutputView(node=one.node, class_type=one.class_type, title=one.title) for one in found.outputs],
        missing_classes=list(found.missing_classes),
        missing_models=list(missing),
        refusal=None
        if refusal is None
        else ConversionRefusal(detail=refusal.message, hint=refusal.hint, node=refusal.node_id),
    )


def _pack(found: FoundPack) -> NeededPack:
    pack = found.pack
    return NeededPack(
        registry_id=pack.registry_id,
        repository=pack.repository,
        versions=sorted(pack.versions),
        commits=sorted(pack.commits),
        classes=sorted(pack.classes),
        missing=None if found.missing is None else list(found.missing),
    )


def _model(found: FoundModel) -> ModelNeed:
    model = found.model
    return ModelNeed(
        folder=model.folder,
        file=model.file,
        url=model.url,
        sha256=model.sha256,
        classes=sorted(model.classes),
        is_present=found.is_present,
    )


def _input(one: ProposedInput) -> TypedInput:
    declared = one.declared
    return TypedInput(
        name=one.name,
        type=declared.type,
        places=list(declared.places),
        description=declared.description,
        default=one.default,
        min=declared.min,
        max=declared.max,
        choices=list(declared.choices),
        source=one.source,
        origin=one.origin,
    )


OPERATIONS = (
    Operation(
        submit,
        "inspect_workflow",
        "post",
        "/v1/workflows/inspect",
        "List what a workflow needs, and what the deployment lacks",
        {200: ("its packs, models, inputs and outputs", Inspected)},
        request=InspectionRequest,
        example={"workflow": WORKFLOW},
        refusals=(
            *BODY_PROBLEMS,
            "insufficient-storage",
            "validation-error",
            "unknown-gpu",
            "bad-editor-file",
            "not-a-workflow",
            "bad-node",
            "too-many-nodes",
        ),
    ),
)

"""POST /v1/workflows/convert: what ComfyUI's editor saves, converted to the API format."""

from collections.abc import Collection, Sequence
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import answer, context_of
from app.api.workflow_body import WorkflowRequest, workflow_body
from app.fields import ResponseBody
from app.heavy import off_loop
from app.operations import BODY_PROBLEMS, Operation
from app.problems import Problem, of_workflow
from app.submission.preparation import check_nodes
from workflows.catalogue import Catalogue
from workflows.editor import Note, convert, placed_nodes, proposed_inputs, unknown_nodes, unknown_notes
from workflows.errors import UiFormat, WorkflowError
from workflows.graph import is_editor_file


class ConversionRequest(WorkflowRequest):
    """A file of ComfyUI's editor."""

    workflow: Any = Field(description="what the editor saves; a graph in API format is returned as it is")
    gpu: str | None = Field(None, description="the GPU pool whose node classes count; null: the default pool")


class ConversionNote(ResponseBody):
    """What became of a node that is not in the graph as it stands in the file."""

    node: str = Field(description="its id, behind the ids of the subgraphs that it is in")
    title: str
    message: str


class ProposedInput(ResponseBody):
    """An input that the file's author chose for its App mode."""

    node: str
    field: str
    title: str
    value: Any = Field(description="its value in the graph")


class Converted(ResponseBody):
    """A workflow in API format."""

    workflow: dict[str, Any] | None = Field(description="ComfyUI's API-format graph; null if classes are unknown")
    notes: list[ConversionNote]
    unknown_classes: list[str] = Field(description="node classes that this pool of the deployment does not have")
    inputs: list[ProposedInput]


async def submit(request: Request) -> Response:
    context = context_of(request)
    async with workflow_body(request, ConversionRequest) as (wanted, pool):
        catalogue = await context.stores.engine_info.catalogue(pool)
        most = context.config.max_nodes
        # Off the loop whatever the size of the body: a small file may make a large graph.
        return await off_loop(lambda: answer(converted(wanted.workflow, catalogue, most)))


def converted(document: Any, catalogue: Catalogue, most_nodes: int) -> Converted:
    """Convert a file of the editor off the event loop; a graph in API format stays unchanged. Raises `Problem`."""
    if not is_editor_file(document):
        if not isinstance(document, dict):
            raise Problem("not-a-workflow", "a workflow is a JSON object", pointer="/workflow")
        return _view(document, (), document)
    try:
        if not catalogue.is_known:
            hint = (
                "start a worker first, which publishes the node classes; or in ComfyUI choose Workflow → Export (API)"
            )
            raise UiFormat("the node classes of this pool are not known yet, and the conversion needs them", hint=hint)
        check_nodes(placed_nodes(document), most_nodes, "/workflow")
        unknown = unknown_nodes(document, catalogue)
        if unknown:
            return _view(None, unknown_notes(unknown), document, unknown={node.kind for node in unknown})
        conversion = convert(document, catalogue)
        return _view(conversion.workflow, conversion.notes, document)
    except WorkflowError as error:
        raise of_workflow(error, "/workflow") from error


def _view(
    workflow: dict[str, Any] | None, notes: Sequence[Note], document: Any, unknown: Collection[str] = ()
) -> Converted:
    # The nodes of a graph in API format need not have what the conversion gives to each, such as a title.
    inputs = proposed_inputs(document, workflow or {}) if is_editor_file(document) else []
    return Converted(
        workflow=workflow,
        notes=[ConversionNote(node=note.node_id, title=note.title, message=note.message) for note in notes],
        unknown_classes=sorted(unknown),
        inputs=[ProposedInput(node=one.node, field=one.field, title=one.title, value=one.value) for one in inputs],
    )


OPERATIONS = (
    Operation(
        submit,
        "convert_workflow",
        "post",
        "/v1/workflows/convert",
        "Convert a file of ComfyUI's editor to the API format",
        {200: ("the graph, what was left out, and what could not be known", Converted)},
        request=ConversionRequest,
        example={"workflow": {"nodes": [{"id": 1, "type": "Note", "widgets_values": ["hello"]}], "links": []}},
        refusals=(
            *BODY_PROBLEMS,
            "insufficient-storage",
            "validation-error",
            "unknown-gpu",
            "ui-format-workflow",
            "bad-editor-file",
            "not-convertible",
            "not-a-workflow",
            "too-many-nodes",
        ),
    ),
)

"""/v1/workflows: list, show and run the named workflows."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import (
    Context,
    body_of,
    check_is_json,
    context_of,
    identity_of,
    json_body,
    shared_answer,
    tenant_of,
)
from app.api.submissions import JobAccepted, JobOrAccepted, accepted_answer
from app.body import Body
from app.fields import ResponseBody
from app.heavy import off_loop
from app.operations import ACCEPTED_BEFORE, KEY, NAME, PREFER, SUBMISSION_PROBLEMS, Operation
from app.problems import Problem
from app.submission.acceptance import Acceptance, Accepted, Identity
from app.submission.foreign import relocated
from app.submission.named import LONG_IN_NAMED_JOBS, NamedJobRequest, input_pointers, job_request, request_model
from app.submission.preparation import Preparation, parsed
from storage.keys import DEFAULT_POOL
from workflows.catalogue import Catalogue
from workflows.graph import parse_graph
from workflows.manifest import InputType, NamedWorkflow
from workflows.suggestions import suggestion

LACKING = frozenset({"unknown-node-class", "missing-model"})


class WorkflowInput(ResponseBody):
    """An input, by the name that POST /v1/workflows/{name}/jobs takes."""

    name: str
    type: InputType = Field(
        description="image, video and audio take a URL, or {data | url | upload_id | asset_id, filename}"
    )
    description: str
    required: bool
    default: Any = Field(description="what is used without a value")
    min: float | None
    max: float | None
    choices: list[str]


class WorkflowCap(ResponseBody):
    """What some inputs may come to together."""

    inputs: list[str]
    product: int = Field(description="their product is at most this")


class WorkflowRow(ResponseBody):
    """A workflow that can be run by name."""

    name: str
    title: str
    description: str
    inputs: list[WorkflowInput]
    models: list[str] = Field(description="folder/file")
    nodes: list[str] = Field(description="packs of custom nodes")
    vram_gb: float | None = Field(description="GPU memory that it needs, where that is known")
    ram_gb: float | None = Field(description="memory that it needs, where that is known")
    timeout_s: int | None = Field(description="run-time limit of a job that names none; null: the deployment's")
    cap: WorkflowCap | None
    seconds: float | None = Field(description="how long a run takes, where that is known")
    runnable: bool | None = Field(description="whether the default pool has all it needs; null while that is not known")
    missing: list[str] = Field(description="what it has not")


class WorkflowList(ResponseBody):
    """All that can be run by name."""

    workflows: list[WorkflowRow]


class WorkflowView(WorkflowRow):
    """One of them, with its graph."""

    workflow: dict[str, Any] = Field(description="ComfyUI's API-format graph")


def workflow_row(workflow: NamedWorkflow, catalogue: Catalogue) -> WorkflowRow:
    return WorkflowRow(**_row(workflow, catalogue))


def workflow_view(workflow: NamedWorkflow, catalogue: Catalogue) -> WorkflowView:
    return WorkflowView(**_row(workflow, catalogue), workflow=dict(workflow.graph))


def _row(workflow: NamedWorkflow, catalogue: Catalogue) -> dict[str, Any]:
    manifest, missing = workflow.manifest, _missing(workflow, catalogue)
    return {
        "name": workflow.name,
        "title": manifest.title,
        "description": manifest.description,
        "inputs": [_input(workflow, name) for name in manifest.inputs],
        "models": list(manifest.models),
        "nodes": list(manifest.nodes),
        "vram_gb": manifest.vram_gb,
        "ram_gb": manifest.ram_gb,
        "timeout_s": manifest.timeout_s,
        "cap": None if manifest.cap is None else WorkflowCap(**manifest.cap.model_dump()),
        "seconds": manifest.seconds,
        "runnable": not missing if catalogue.is_known else None,
        "missing": missing,
    }


def _input(workflow: NamedWorkflow, name: str) -> WorkflowInput:
    named = workflow.manifest.inputs[name]
    return WorkflowInput(
        name=name,
        type=named.type,
        description=named.description,
        required=named.is_file,
        default=workflow.default(name),
        min=named.min,
        max=named.max,
        choices=list(named.choices),
    )


def _missing(workflow: NamedWorkflow, catalogue: Catalogue) -> list[str]:
    """Return the messages of missing node classes and models, which a job cannot bring along."""
    faults = catalogue.check(parse_graph(workflow.graph)).faults
    return list(dict.fromkeys(fault.message for fault in faults if fault.code in LACKING))


async def page(request: Request) -> Response:
    """List the workflows, each with whether it can run here."""
    context = context_of(request)

    async def view() -> WorkflowList:
        # Off the event loop: validating all workflows takes 7 ms.
        return await off_loop(_list, tuple(context.services.workflows.values()), await _catalogue(context))

    return await shared_answer(request, view)


async def show(request: Request) -> Response:
    context = context_of(request)
    workflow = _found(context, request)

    async def view() -> WorkflowView:
        return await off_loop(workflow_view, workflow, await _catalogue(context))

    return await shared_answer(request, view)


async def submit(request: Request) -> Response:
    return await accepted_answer(request, await _submitted(request))


async def _submitted(request: Request) -> Accepted:
    # In a function of its own, so that a response that waits for the job holds no parsed body in memory.
    context, tenant = context_of(request), tenant_of(request)
    workflow = _found(context, request)
    check_is_json(request)
    with body_of(request) as body:
        document = await json_body(request, body, limit=context.config.max_request_bytes, keep=LONG_IN_NAMED_JOBS)
        return await run_by_name(context, tenant, workflow, document, body, identity_of(request, body))


async def run_by_name(
    context: Context, tenant: str, workflow: NamedWorkflow, document: Any, body: Body, identity: Identity
) -> Accepted:
    """Accept a job of a named workflow. `document` is the request's JSON. Raises `Problem`."""
    acceptance = Acceptance(context.services, tenant)
    # The name is in the path: one key with the same body but another workflow is a different request.
    identity = replace(identity, fingerprint=f"{identity.fingerprint} {workflow.name}")
    accepted = await acceptance.replayed(identity)
    if accepted is not None:
        return accepted
    named = await body.aside(parsed, request_model(workflow), document)
    wanted = job_request(workflow, named, max_timeout_s=context.config.max_timeout_s)
    # The operator wrote the graph, so it is trusted even if strangers set its inputs.
    preparation = Preparation(context.services, tenant, body, "own")
    with relocated(input_pointers(workflow, named, document)):
        prepared = replace(await preparation.only_job(wanted), workflow_name=workflow.name)
    return await acceptance.job(prepared, identity)


def _list(workflows: Iterable[NamedWorkflow], catalogue: Catalogue) -> WorkflowList:
    return WorkflowList(workflows=[workflow_row(workflow, catalogue) for workflow in workflows])


async def _catalogue(context: Context) -> Catalogue:
    return await context.stores.engine_info.catalogue(DEFAULT_POOL)


def _found(context: Context, request: Request) -> NamedWorkflow:
    return workflow_of(context, request.path_params["name"])


def workflow_of(context: Context, name: str) -> NamedWorkflow:
    """Return a workflow by its name. Raises `Problem`."""
    workflow = context.services.workflows.get(name)
    if workflow is None:
        known = tuple(context.services.workflows)
        detail = f"there is no workflow of this name, only {', '.join(known)}"
        raise Problem("unknown-workflow", detail, hint=suggestion(name, known) or None)
    return workflow


OPERATIONS = (
    Operation(
        page,
        "list_workflows",
        "get",
        "/v1/workflows",
        "What can be run by name",
        {200: ("all of them", WorkflowList)},
    ),
    Operation(
        show,
        "get_workflow_by_name",
        "get",
        "/v1/workflows/{name}",
        "Get a workflow",
        {200: ("its inputs, what it needs, and its graph", WorkflowView)},
        parameters=(NAME,),
        refusals=("unknown-workflow",),
    ),
    Operation(
        submit,
        "submit_named_job",
        "post",
        "/v1/workflows/{name}/jobs",
        "Run a workflow by name",
        {
            202: ("stored: it will end in exactly one way", JobAccepted),
            200: (ACCEPTED_BEFORE, JobOrAccepted),
        },
        parameters=(NAME, KEY, PREFER),
        request=NamedJobRequest,
        example={"inputs": {"image": {"url": "https://example.com/cat.png"}, "prompt": "a cat in the rain"}},
        refusals=(*SUBMISSION_PROBLEMS, "unknown-workflow"),
    ),
)

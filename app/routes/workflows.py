"""/v1/workflows: list, show and run the named workflows."""

from collections.abc import Iterable
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.heavy import off_loop
from app.problems import Problem
from app.routes.context import (
    Context,
    body_of,
    check_is_json,
    context_of,
    identity_of,
    json_body,
    shared_answer,
    tenant_of,
)
from app.routes.jobs import accepted_answer
from app.submission.acceptance import Acceptance
from app.submission.named import LONG_IN_NAMED_JOBS, job_request, request_model
from app.submission.preparation import Preparation, parsed
from app.views.workflows import WorkflowList, WorkflowView, workflow_row, workflow_view
from storage.keys import DEFAULT_POOL
from workflows.catalogue import Catalogue
from workflows.manifest import NamedWorkflow
from workflows.suggestions import suggestion


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
    context, tenant = context_of(request), tenant_of(request)
    workflow = _found(context, request)
    check_is_json(request)
    with body_of(request) as body:
        document = await json_body(request, body, limit=context.config.max_request_bytes, keep=LONG_IN_NAMED_JOBS)
        acceptance, identity = Acceptance(context.services, context.config, tenant), identity_of(request, body)
        # The name is in the path: one key with the same body but another workflow is a different request.
        identity = replace(identity, fingerprint=f"{identity.fingerprint} {workflow.name}")
        accepted = await acceptance.replayed(identity)
        if accepted is None:
            named = await body.aside(parsed, request_model(workflow), document)
            wanted = job_request(workflow, named, max_timeout_s=context.config.max_timeout_s)
            # The operator wrote the graph, so it is trusted even if strangers set its inputs.
            preparation = Preparation(context.services, context.config, tenant, body, "own")
            accepted = await acceptance.job(await preparation.only_job(wanted), identity)
    return accepted_answer(request, accepted)


def _list(workflows: Iterable[NamedWorkflow], catalogue: Catalogue) -> WorkflowList:
    return WorkflowList(workflows=[workflow_row(workflow, catalogue) for workflow in workflows])


async def _catalogue(context: Context) -> Catalogue:
    return await context.stores.engine_info.catalogue(DEFAULT_POOL)


def _found(context: Context, request: Request) -> NamedWorkflow:
    workflow = context.services.workflows.get(request.path_params["name"])
    if workflow is None:
        known = tuple(context.services.workflows)
        detail = f"there is no workflow of this name, only {', '.join(known)}"
        raise Problem("unknown-workflow", detail, hint=suggestion(request.path_params["name"], known) or None)
    return workflow


ROUTES = (
    Route("/v1/workflows", page, methods=["GET"], name="list_workflows"),
    Route("/v1/workflows/{name}", show, methods=["GET"], name="get_workflow_by_name"),
    Route("/v1/workflows/{name}/jobs", submit, methods=["POST"], name="submit_named_job"),
)

"""/v1/workflows: what can be run by name, and running it."""

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.problems import Problem
from app.routes.context import Context, answer, body_of, check_is_json, context_of, identity_of, json_body, tenant_of
from app.routes.jobs import accepted_answer
from app.submission.acceptance import Acceptance
from app.submission.named import LONG_IN_NAMED_JOBS, job_request, request_model
from app.submission.preparation import Preparation, parsed
from app.views.workflows import WorkflowList, workflow_row, workflow_view
from storage.keys import DEFAULT_POOL
from workflows.catalogue import Catalogue
from workflows.manifest import NamedWorkflow
from workflows.suggestions import suggestion


async def page(request: Request) -> Response:
    context = context_of(request)
    catalogue = await _catalogue(context)
    rows = [workflow_row(workflow, catalogue) for workflow in context.services.workflows.values()]
    return answer(WorkflowList(workflows=rows))


async def show(request: Request) -> Response:
    context = context_of(request)
    return answer(workflow_view(_found(context, request), await _catalogue(context)))


async def submit(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    workflow = _found(context, request)
    check_is_json(request)
    with body_of(request) as body:
        document = await json_body(request, body, limit=context.config.max_request_bytes, keep=LONG_IN_NAMED_JOBS)
        acceptance, identity = Acceptance(context.services, context.config, tenant), identity_of(request, body)
        identity = replace(identity, fingerprint=f"{identity.fingerprint} {workflow.name}")
        accepted = await acceptance.replayed(identity)
        if accepted is None:
            named = await body.aside(parsed, request_model(workflow), document)
            wanted = job_request(workflow, named, max_timeout_s=context.config.max_timeout_s)
            # Its graph is the operator's own, whoever gives the values.
            preparation = Preparation(context.services, context.config, tenant, body, "own")
            accepted = await acceptance.job(await preparation.only_job(wanted), identity)
    return accepted_answer(request, accepted)


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

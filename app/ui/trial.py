"""Try a graph once: a file that ComfyUI's editor saved or exported, or that it wrote into a picture.

It is checked first, without running it: what the conversion left out, what this deployment lacks, and which input files
the job must bring. Each of these files gets a field of its own, named as the loader names it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.api.context import Context, context_of, json_text, principal_of, tenant_of
from app.api.conversion import ConversionNote, converted, known_pool
from app.api.submissions import run_graph
from app.auth import Principal
from app.body import Body
from app.heavy import off_loop
from app.outcome import outcome_of
from app.problems import Problem, of_report, of_workflow
from app.submission.acceptance import Identity
from app.submission.foreign import job_form
from app.submission.preparation import Preparation, PreparedWorkflow
from app.ui.drawing import Drawing, drawing_of
from app.ui.forms import Form, form_body
from app.ui.live import live_values
from app.ui.pages import render
from app.ui.routing import action, form, is_fragment, page, see_other
from storage.concurrency import both
from storage.pools.engine_info import Published
from workflows.catalogue import Catalogue
from workflows.editor import positions
from workflows.errors import MissingModel, UnknownNodeClass, WorkflowError
from workflows.input_files import needed_files
from workflows.inspection import FoundPack, inspect
from workflows.needs import NeededModel

MOST_SHOWN = 1024 * 1024
"""Bytes of an earlier job's graph that the form repeats."""
MOST_FILES = 10
"""Input files that get a field of their own."""
UPLOAD_PREFIX, NAME_PREFIX, FILENAME_PREFIX = "upload.", "name.", "filename."
_LACKING = (UnknownNodeClass, MissingModel)


@dataclass(frozen=True, slots=True)
class NeededFile:
    """An input file that the graph loads and the job must bring. `kind` is image, video, audio or file."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What a graph is here. `problem` is what keeps all of it from running, as the API words it."""

    is_of_editor: bool = False
    nodes: int = 0
    notes: Sequence[ConversionNote] = ()
    missing_packs: Sequence[FoundPack] = ()
    """Packs with node classes that the deployment does not have."""
    missing_models: Sequence[NeededModel] = ()
    faults: Sequence[str] = ()
    """Messages about outputs that do not run, where others do."""
    files: Sequence[NeededFile] = ()
    is_known: bool = True
    """Whether the engine has published its classes. Without them, only the structure is checked."""
    problem: Problem | None = None
    is_lacking_alone: bool = False
    """Whether the problem says nothing but that classes and models are missing."""
    drawing: Drawing | None = None

    @property
    def can_run(self) -> bool:
        return self.nodes > 0 and self.problem is None


async def show(request: Request) -> Response:
    graph, job_id = "", request.query_params.get("from")
    if job_id is not None:
        graph = await _of_job(context_of(request), tenant_of(request), job_id)
    # In the thread, because the graph may have a megabyte to escape.
    return await off_loop(_page(request, graph, None))


async def check(request: Request) -> Response:
    """Return what the graph is here, without running it."""
    context, fields = context_of(request), form(request)
    try:
        with form_body(request) as body:
            document = await _document(request, body, fields)
            checked = await _checked(context, principal_of(request), body, document, fields.get("gpu"))
    except Problem as problem:
        checked = Checked(problem=problem)
    # In the thread, because a drawing may have thousands of boxes.
    if is_fragment(request):
        return await off_loop(partial(render, request, "fragments/checked.html", checked=checked))
    return await off_loop(_page(request, fields.get("graph", ""), checked))


def _page(request: Request, graph: str, checked: Checked | None) -> Callable[[], Response]:
    pools = context_of(request).config.gpu_pools
    return partial(render, request, "trial.html", graph=graph, checked=checked, pools=pools)


async def run(request: Request) -> Response:
    context, fields = context_of(request), form(request)
    with form_body(request) as body:
        graph = await _document(request, body, fields)
        document = {"workflow": graph, "media": _media(fields), "gpu": fields.get("gpu") or None}
        accepted = await run_graph(context, principal_of(request), document, body, Identity(None, body.fingerprint))
    outcome_of(request.scope).jobs_accepted = 1
    if not is_fragment(request):
        return see_other(f"/jobs/{accepted.stored.record.job_id}")
    return render(request, "fragments/run.html", **live_values(request, context, accepted.stored))


async def _document(request: Request, body: Body, fields: Form) -> Any:
    """Return the graph or editor's file of the form; of a whole request of ComfyUI's API what stands in it."""
    document = await json_text(request, body, fields.get("graph", "").encode())
    moved = (await body.aside(job_form, document)).document
    return moved["workflow"] if isinstance(moved, dict) and "workflow" in moved else document


def _media(fields: Form) -> list[dict[str, str]]:
    """Return the uploads of the form, each by the name that the graph loads, or else by the name of its file."""
    media = []
    for field, upload in fields.items():
        if field.startswith(UPLOAD_PREFIX) and upload:
            number = field.removeprefix(UPLOAD_PREFIX)
            name = fields.get(f"{NAME_PREFIX}{number}", "").strip() or fields.get(f"{FILENAME_PREFIX}{number}", "")
            media.append({"name": name or "input.png", "upload_id": upload})
    return media


async def _checked(context: Context, principal: Principal, body: Body, document: Any, gpu: str | None) -> Checked:
    """Check as a submission does, up to the point where it would be stored. Raises `Problem`."""
    pool = known_pool(context.config, gpu)
    engine_info, now = context.stores.engine_info, context.stores.clock.now()
    catalogue, published = await both(engine_info.catalogue(pool), engine_info.published(pool))
    models = published if published is not None and published.files_are_known(now) else None
    # Off the loop whatever the size of the graph: listing an engine's models may take a second the first time.
    needs = await off_loop(_needs, document, catalogue, models)
    notes: Sequence[ConversionNote] = ()
    graph = document
    if needs.is_of_editor:
        conversion = await off_loop(converted, document, catalogue, context.config.max_nodes)
        if conversion.workflow is None:
            return needs
        graph, notes = conversion.workflow, conversion.notes
    preparation = Preparation(context.services, principal.tenant, body, principal.graphs)
    workflow = await preparation.workflow(graph, "", pool)
    found = await off_loop(_checked_graph, preparation, workflow, catalogue, document)
    return replace(
        found,
        is_of_editor=needs.is_of_editor,
        notes=notes,
        missing_packs=needs.missing_packs,
        missing_models=needs.missing_models,
    )


def _needs(document: Any, catalogue: Catalogue, published: Published | None) -> Checked:
    """Return what the deployment lacks. Raises `Problem`."""
    try:
        found = inspect(document, catalogue, None if published is None else published.models)
    except WorkflowError as error:
        raise of_workflow(error, "") from error
    return Checked(
        is_of_editor=found.is_editor_file,
        missing_packs=[pack for pack in found.packs if pack.missing],
        missing_models=found.missing_models,
    )


def _checked_graph(
    preparation: Preparation, workflow: PreparedWorkflow, catalogue: Catalogue, document: Any
) -> Checked:
    """Check a graph as if the job brought all files that it loads. Raises `Problem`. Runs off the event loop."""
    graph = workflow.graph
    files = needed_files(graph, catalogue.declaration)
    report = preparation.check_graph(workflow, (), frozenset(files), catalogue, "/inputs", "")
    return Checked(
        nodes=len(graph.nodes),
        faults=[] if report.is_refusal else [fault.message for fault in report.faults],
        files=[NeededFile(name, kind) for name, kind in files.items()][:MOST_FILES],
        is_known=catalogue.is_known,
        problem=of_report(report, "", {}) if report.is_refusal else None,
        is_lacking_alone=all(isinstance(fault, _LACKING) for fault in report.faults),
        drawing=drawing_of(graph, canvas=positions(document)),
    )


async def _of_job(context: Context, tenant: str, job_id: str) -> str:
    """Return what a job was submitted as, for the form; empty if it is too large for that."""
    jobs = context.stores.jobs
    record = (await jobs.read(tenant, job_id)).record
    document = await jobs.editor_file(tenant, job_id) if record.workflow_format == "editor" else None
    if document is None:
        document = await jobs.workflow(tenant, job_id)
    return await off_loop(_indented, document) if len(document) <= MOST_SHOWN else ""


def _indented(document: bytes) -> str:
    return json.dumps(json.loads(document), indent=2, ensure_ascii=False)


ROUTES = (
    page("/try", show, "show_trial", holds_documents=True),
    action("/try", run, "run_trial"),
    action("/try/check", check, "check_trial"),
)

"""Try a graph once: a file that ComfyUI's editor saved or exported, or that it wrote into a picture.

It is checked first, without running it: what the conversion left out, what this deployment lacks, and which input files
the job must bring. Each of these files gets a field of its own, named as the loader names it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from storage.jobs.models import Input
from storage.keys import upload_of
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
    """An input file that the graph loads and the job must bring. `kind` is image, video, audio or file.

    `upload_id` is the upload that the form has for it already, or empty.
    """

    name: str
    kind: str
    upload_id: str


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


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier job ran, to be changed and run again. `uploads` are its input files by their names."""

    graph: str = ""
    uploads: Mapping[str, str] = field(default_factory=dict)


async def show(request: Request) -> Response:
    job_id = request.query_params.get("from")
    earlier = Earlier()
    if job_id is not None:
        earlier = await _of_job(context_of(request), tenant_of(request), job_id)
    # In the thread, because the graph may have a megabyte to escape.
    return await off_loop(_page(request, earlier.graph, None, earlier.uploads))


async def check(request: Request) -> Response:
    """Return what the graph is here, without running it."""
    context, fields = context_of(request), form(request)
    try:
        with form_body(request) as body:
            document = await _document(request, body, fields)
            checked = await _checked(context, principal_of(request), body, document, fields)
    except Problem as problem:
        checked = Checked(problem=problem)
    # In the thread, because a drawing may have thousands of boxes.
    if is_fragment(request):
        return await off_loop(partial(render, request, "fragments/checked.html", checked=checked))
    return await off_loop(_page(request, fields.get("graph", ""), checked))


def _page(
    request: Request, graph: str, checked: Checked | None, uploads: Mapping[str, str] | None = None
) -> Callable[[], Response]:
    """Return what renders the page. `uploads` are input files of an earlier job by their names."""
    pools = context_of(request).config.gpu_pools
    return partial(render, request, "trial.html", graph=graph, checked=checked, uploads=uploads or {}, pools=pools)


async def run(request: Request) -> Response:
    context, fields = context_of(request), form(request)
    with form_body(request) as body:
        graph = await _document(request, body, fields)
        media = [{"name": name, "upload_id": upload} for name, upload in _uploads(fields).items()]
        document = {"workflow": graph, "media": media, "gpu": fields.get("gpu") or None}
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


def _uploads(fields: Form) -> dict[str, str]:
    """Return the uploads of the form by the names that the graph loads, or else by the names of their files.

    The last one of a name counts: the form has the files of an earlier job before those that are chosen anew.
    """
    found: dict[str, str] = {}
    for name_of_field, upload in fields.items():
        if name_of_field.startswith(UPLOAD_PREFIX) and upload:
            number = name_of_field.removeprefix(UPLOAD_PREFIX)
            name = fields.get(f"{NAME_PREFIX}{number}", "").strip() or fields.get(f"{FILENAME_PREFIX}{number}", "")
            found[name or "input.png"] = upload
    return found


async def _checked(context: Context, principal: Principal, body: Body, document: Any, fields: Form) -> Checked:
    """Check as a submission does, up to the point where it would be stored. Raises `Problem`."""
    pool = known_pool(context.config, fields.get("gpu"))
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
    found = await off_loop(_checked_graph, preparation, workflow, catalogue, document, _uploads(fields))
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
    preparation: Preparation,
    workflow: PreparedWorkflow,
    catalogue: Catalogue,
    document: Any,
    uploads: Mapping[str, str],
) -> Checked:
    """Check a graph as if the job brought all files that it loads. Raises `Problem`. Runs off the event loop."""
    graph = workflow.graph
    files = needed_files(graph, catalogue.declaration)
    report = preparation.check_graph(workflow, (), frozenset((*files, *uploads)), catalogue, "/inputs", "")
    return Checked(
        nodes=len(graph.nodes),
        faults=[] if report.is_refusal else [fault.message for fault in report.faults],
        files=[NeededFile(name, kind, uploads.get(name, "")) for name, kind in files.items()][:MOST_FILES],
        is_known=catalogue.is_known,
        problem=of_report(report, "", {}) if report.is_refusal else None,
        is_lacking_alone=all(isinstance(fault, _LACKING) for fault in report.faults),
        drawing=drawing_of(graph, canvas=positions(document)),
    )


async def _of_job(context: Context, tenant: str, job_id: str) -> Earlier:
    """Return what a job ran and its uploads; no graph if it is too large for the form."""
    jobs = context.stores.jobs
    record = (await jobs.read(tenant, job_id)).record
    inputs = await jobs.inputs(record)
    # The inputs of a job are set in the graph that was made of its editor's file, and not in the file.
    wants_file = record.workflow_format == "editor" and not inputs
    document = await jobs.editor_file(tenant, job_id) if wants_file else None
    if document is None:
        document = await jobs.workflow(tenant, job_id)
    uploads = {file.name: upload for file in record.input_files if (upload := upload_of(file.key)) is not None}
    is_short = len(document) <= MOST_SHOWN
    return Earlier(await off_loop(_indented, document, inputs) if is_short else "", uploads)


def _indented(document: bytes, inputs: Sequence[Input]) -> str:
    """Return the document for people, with the values that the job set in its graph."""
    parsed = json.loads(document)
    for one in inputs:
        if isinstance(node := parsed.get(one.node), dict):
            node.setdefault("inputs", {})[one.field] = one.value
    text = json.dumps(parsed, indent=2, ensure_ascii=False)
    return text if len(text) <= MOST_SHOWN else ""


ROUTES = (
    page("/try", show, "show_trial", holds_documents=True),
    action("/try", run, "run_trial"),
    action("/try/check", check, "check_trial"),
)

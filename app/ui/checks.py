"""What a graph is here, found without running it: as a submission does, up to the point where it would be stored."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.api.context import Context
from app.api.conversion import ConversionNote, Converted, converted
from app.api.workflow_body import known_pool
from app.api.workflows import WorkflowInput
from app.auth import Principal
from app.body import PARSED, Body
from app.heavy import off_loop
from app.problems import Problem, of_report, of_workflow
from app.submission.preparation import Preparation, PreparedInputs, PreparedWorkflow
from app.ui.drawing import Drawing, drawing_of
from app.ui.forms import Form
from app.ui.inputs import FILENAME_PREFIX, UPLOAD_PREFIX, form_field, typed_values
from storage.concurrency import both
from storage.pools.engine_info import Published
from workflows.catalogue import Catalogue
from workflows.editor import positions
from workflows.editor.budget import size_of
from workflows.errors import MissingModel, UnknownNodeClass, WorkflowError
from workflows.input_files import needed_files
from workflows.inspection import FoundPack, Inspection, inspect
from workflows.needs import NeededModel
from workflows.proposals import ProposedInput

MOST_FILES = 10
"""Input files that get a field of their own."""
MOST_VALUES = 40
"""Values of a graph that get a field of their own; the text of the graph has all."""
NAME_PREFIX, DIGEST = "name.", "digest"
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
    fields: Sequence[Mapping[str, Any]] = ()
    """What people would change: the prompts, seeds and sizes of the graph."""
    digest: str = ""
    """Of the graph that the fields are of."""
    is_known: bool = True
    """Whether the engine has published its classes. Without them, only the structure is checked."""
    problem: Problem | None = None
    is_lacking_alone: bool = False
    """Whether the problem says nothing but that classes and models are missing."""
    drawing: Drawing | None = None

    @property
    def can_run(self) -> bool:
        return self.nodes > 0 and self.problem is None


async def check_graph(context: Context, principal: Principal, body: Body, document: Any, fields: Form) -> Checked:
    """Check as a submission does, up to the point where it would be stored. Raises `Problem`."""
    pool = known_pool(context.config, fields.get("gpu"))
    engine_info, now = context.stores.engine_info, context.stores.clock.now()
    catalogue, published = await both(engine_info.catalogue(pool), engine_info.published(pool))
    models = published if published is not None and published.files_are_known(now) else None
    # Off the loop whatever the size of the graph: listing an engine's models may take a second the first time.
    needs = await off_loop(_needs, document, catalogue, models, fields)
    notes: Sequence[ConversionNote] = ()
    graph = document
    if needs.is_of_editor:
        conversion, size = await off_loop(_conversion, document, catalogue, context.config.max_nodes)
        if conversion.workflow is None:
            return needs
        await body.hold(size)  # a small file may make a large graph
        graph, notes = conversion.workflow, conversion.notes
    preparation = Preparation(context.services, principal.tenant, body, principal.graphs)
    workflow = await preparation.workflow(graph, "", pool)
    found = await off_loop(_checked_graph, preparation, workflow, catalogue, document, uploads_of(fields))
    return replace(
        found,
        is_of_editor=needs.is_of_editor,
        notes=notes,
        missing_packs=needs.missing_packs,
        missing_models=needs.missing_models,
        fields=needs.fields,
        digest=digest_of(fields),
    )


def _conversion(document: Any, catalogue: Catalogue, most_nodes: int) -> tuple[Converted, int]:
    """Return what an editor's file becomes, and the memory that its graph takes."""
    conversion = converted(document, catalogue, most_nodes)
    return conversion, PARSED * size_of(conversion.workflow)


def _needs(document: Any, catalogue: Catalogue, published: Published | None, fields: Form) -> Checked:
    """Return what the deployment lacks, and the values to change. Raises `Problem`."""
    try:
        found = inspect(document, catalogue, None if published is None else published.models)
    except WorkflowError as error:
        raise of_workflow(error, "") from error
    return Checked(
        is_of_editor=found.is_editor_file,
        missing_packs=[pack for pack in found.packs if pack.missing],
        missing_models=found.missing_models,
        fields=[_field(one, fields) for one in proposed(found)],
    )


def _field(one: ProposedInput, given: Form) -> dict[str, Any]:
    """Return what the template needs to show a value. One that was changed is kept as long as the graph is the same."""
    declared = one.declared
    shown = WorkflowInput(
        name=one.name,
        type=declared.type,
        description=one.origin,
        required=False,
        default=one.default,
        min=declared.min,
        max=declared.max,
        choices=list(declared.choices),
    )
    kept = given.get(DIGEST) == digest_of(given)
    return form_field(shown, typed_values({one.name: declared}, given).get(one.name) if kept else None)


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
    report = preparation.check_graph(
        workflow, PreparedInputs((), (), frozenset((*files, *uploads)), catalogue, "/inputs"), ""
    )
    return Checked(
        nodes=len(graph.nodes),
        faults=[] if report.is_refusal else [fault.message for fault in report.faults],
        files=[NeededFile(name, kind, uploads.get(name, "")) for name, kind in files.items()][:MOST_FILES],
        is_known=catalogue.is_known,
        problem=of_report(report, "", {}) if report.is_refusal else None,
        is_lacking_alone=all(isinstance(fault, _LACKING) for fault in report.faults),
        drawing=drawing_of(graph, canvas=positions(document)),
    )


def proposed(found: Inspection) -> list[ProposedInput]:
    """Return the values that a form offers: not files, which have fields of their own."""
    return [one for one in found.inputs if one.is_chosen and not one.declared.is_file][:MOST_VALUES]


def uploads_of(fields: Form) -> dict[str, str]:
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


def digest_of(fields: Form) -> str:
    return hashlib.sha256(f"{fields.get('gpu', '')} {fields.get('graph', '')}".encode()).hexdigest()[:16]

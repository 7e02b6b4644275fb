"""Validates a submission before anything is stored, cheap checks first.

counts → graph → inputs → node classes → input files (decode, fetch, resolve)
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from app.body import PARSED, BadText, Body, Place, TextTooLong
from app.faults import of_validation
from app.heavy import off_loop
from app.problems import Problem, of_report, of_workflow
from app.services import Services
from app.submission.fetching import url_count
from app.submission.input_files import FileIntake, LocalFile, PreparedFile, collides
from app.submission.request import InputValue, JobOptions, JobRequest
from storage.assets import Asset
from storage.jobs.models import Input
from storage.jobs.record import DAY_S
from storage.keys import DEFAULT_POOL
from storage.webhooks.receivers import ReceiverRules
from storage.webhooks.signing import BadSecret, secret_bytes
from workflows import strangers
from workflows.catalogue import Catalogue
from workflows.editor import DocumentNode, convert_for, placed_nodes
from workflows.errors import WorkflowError, pointer
from workflows.graph import Graph, is_editor_file, parse_graph
from workflows.json_weight import weight
from workflows.policy import GraphTrust
from workflows.report import Report

LONG_IN_JOBS: tuple[Place, ...] = (
    ("workflow",),
    ("inputs", "*", "value"),
    ("media", "*", "data"),
    ("media", "*", "url"),
)
"""The members of a job whose long strings stay spooled in a file. A batch has the same below each job and set."""
LONG_IN_BATCHES: tuple[Place, ...] = (
    *LONG_IN_JOBS,
    *(("jobs", "*", *place) for place in LONG_IN_JOBS),
    ("input_sets", "*", "*", "value"),
)

MOST_IN_RECORD = 64 * 1024
"""Weight of the inputs that a record holds; heavier ones get an object of their own. A list may read 1,000 records."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class WorkflowParts:
    """What is stored of a workflow with its job. `document` is its graph as JSON, or a file of the request with it.

    `size` is in bytes; `nodes` and `conversion_steps` are the work that it was.
    """

    document: bytes | Path
    shape: str
    size: int
    nodes: int
    editor_file: bytes | None = None
    conversion_steps: int = 0

    async def graph(self) -> bytes:
        """Return the graph as JSON. Raises `OSError`."""
        return self.document if isinstance(self.document, bytes) else await asyncio.to_thread(self.document.read_bytes)


@dataclass(frozen=True, slots=True)
class PreparedWorkflow:
    """A parsed graph. `document` is the graph as JSON, as it is stored; `editor_file` is what it was made of, if so."""

    document: bytes
    graph: Graph
    shape: str
    editor_file: bytes | None = None
    document_nodes: Mapping[str, DocumentNode] = field(default_factory=dict)
    """Where the nodes stand in the editor's file."""
    conversion_steps: int = 0
    """The steps that the conversion of the editor's file took."""

    @property
    def parts(self) -> WorkflowParts:
        """What is stored of it with each job."""
        size, nodes = len(self.document) + len(self.editor_file or b""), len(self.graph.nodes)
        return WorkflowParts(self.document, self.shape, size, nodes, self.editor_file, self.conversion_steps)

    @classmethod
    def of(cls, document: Any) -> "PreparedWorkflow":
        """Parse the graph once for all jobs that share it. Raises `WorkflowError`."""
        graph = parse_graph(document)
        return cls(to_json(document), graph, graph.shape())

    @classmethod
    def of_editor(cls, document: Any, catalogue: Catalogue) -> "PreparedWorkflow":
        """Convert a file of ComfyUI's editor. Raises `WorkflowError`."""
        made = convert_for(document, catalogue)
        return replace(
            cls.of(made.workflow),
            editor_file=to_json(document),
            document_nodes=made.document_nodes,
            conversion_steps=made.steps,
        )

    def located(self, error: WorkflowError) -> WorkflowError:
        """Let an error of the graph point into the document that was submitted, if that is a file of the editor."""
        if error.node_id is not None and (node := self.document_nodes.get(error.node_id)) is not None:
            node.locate(error)
        return error


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A validated job. Jobs of a batch may share `files`; `pictures` are the files of the job's own image inputs."""

    options: JobOptions
    workflow: WorkflowParts
    inputs: tuple[Input, ...]
    values: bytes | None
    """The inputs as JSON, if they are too long for the record."""
    pictures: tuple[LocalFile, ...]
    files: tuple[PreparedFile, ...]
    graphs: GraphTrust
    """The trust level whose rules the graph passed."""
    warnings: Mapping[str, Any]
    """Reasons why some outputs do not run, by node id."""
    workflow_name: str | None = None
    """The named workflow that the job runs."""
    retry_of: str | None = None
    """The job that it repeats."""

    @property
    def pool(self) -> str:
        """The GPU pool whose workers run the job."""
        return self.options.gpu or DEFAULT_POOL


@dataclass(frozen=True, slots=True)
class PreparedInputs:
    """What the inputs of a job set, before its graph is validated. `brought` are the names of all files of the job."""

    values: tuple[Input, ...]
    pictures: tuple[LocalFile, ...]
    brought: frozenset[str]
    catalogue: Catalogue
    inputs_at: str


async def check_receiver(receivers: ReceiverRules, tenant: str, url: str, where: str) -> None:
    """Raise `Problem` if the delivery rules would refuse this receiver, with the same reason."""
    if (reason := await receivers.refusal(tenant, url)) is not None:
        raise Problem("webhook-refused", reason, pointer=where)


def parsed(model: type[M], document: Any) -> M:
    """Validate a request body. Raises `Problem` with every invalid field."""
    if not isinstance(document, dict):
        raise Problem("validation-error", "the body is not a JSON object", pointer="")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise of_validation(error, model) from error


def check_nodes(count: int, most: int, where: str) -> None:
    """Raise `Problem` for a workflow of more than `most` nodes."""
    if count > most:
        raise Problem("too-many-nodes", f"{count} nodes, at most {most} are allowed", pointer=where)


class Preparation:
    """Validates the jobs of one request. `root` is a JSON pointer into the request. All methods raise `Problem`."""

    def __init__(
        self, services: Services, tenant: str, body: Body, graphs: GraphTrust, *, takes_editor_files: bool = False
    ) -> None:
        """`takes_editor_files` says that files of ComfyUI's editor are converted rather than refused."""
        self._takes_editor_files = takes_editor_files
        self._graphs = graphs
        self._stores, self._receivers = services.stores, services.receivers
        self._config = services.config
        self._tenant = tenant
        self._body = body
        self._intake = FileIntake(services, tenant, body)
        self._catalogues: dict[str, Catalogue] = {}

    def check_urls(self, count: int, most: int) -> None:
        """Check the number of URLs in the whole request. Call this before the first fetch."""
        if count > most:
            detail = f"{count} URLs to fetch, at most {most} are allowed in such a request"
            raise Problem("too-many-urls", detail, pointer="")

    async def only_job(self, request: JobRequest) -> PreparedJob:
        """Validate a request for one job."""
        self.check_urls(url_count(request.media, request.inputs), self._config.max_urls)
        return await self.whole_job(request)

    async def whole_job(self, request: JobRequest, root: str = "") -> PreparedJob:
        """Validate one job with its input files."""
        await self.check(request, root)
        workflow = await self.workflow(request.workflow, root, request.gpu or DEFAULT_POOL)
        prepared = await self.job(request, workflow, request.inputs, f"{root}/inputs", f"{root}/workflow")
        # Files come last: fetching and decoding them is the expensive part, and only a valid graph needs it.
        return replace(prepared, files=await self.files(request, root))

    async def set_aside(self, job: PreparedJob) -> PreparedJob:
        """Return the job with its converted graph in a file: a batch holds those of all its jobs until it is stored."""
        workflow = job.workflow
        if workflow.editor_file is None or not isinstance(workflow.document, bytes):
            return job
        path = self._body.new_file(f"graph-{uuid.uuid4().hex}")
        await asyncio.to_thread(path.write_bytes, workflow.document)
        return replace(job, workflow=replace(workflow, document=path))

    async def workflow(self, document: Any, root: str, pool: str) -> PreparedWorkflow:
        """Parse the graph, off the event loop if it is large. A file of the editor is converted for the pool."""
        where = f"{root}/workflow"
        document = await self._text(document, where)
        if document is None:
            raise Problem("missing-workflow", "`workflow` is null", pointer=where)
        # Counted before the graph is parsed, whose cost grows with the number of nodes.
        if isinstance(document, dict):
            self._check_nodes(len(document), where)
        try:
            workflow = await self._parsed(document, pool, where)
        except WorkflowError as error:
            raise of_workflow(error, where) from error
        # A converted graph may have more nodes than its file, because subgraphs are repeated.
        self._check_nodes(len(workflow.graph.nodes), where)
        return workflow

    async def _parsed(self, document: Any, pool: str, where: str) -> PreparedWorkflow:
        if self._takes_editor_files and is_editor_file(document):
            # Before an engine has published its classes nothing can be converted, and the parser asks for an export.
            catalogue = await self.catalogue(pool)
            if catalogue.is_known:
                workflow = await off_loop(self._of_editor, document, catalogue, where)
                size = PARSED * len(workflow.document)  # a small body may make a large graph
                if self._body.has_room(size):
                    return workflow
                # Made again once there is a place: many requests that wait for one would hold their graphs meanwhile.
                del workflow
                await self._body.hold(size)
                return await off_loop(self._of_editor, document, catalogue, where)
        return await self._body.aside(PreparedWorkflow.of, document)

    def _of_editor(self, document: Any, catalogue: Catalogue, where: str) -> PreparedWorkflow:
        """Convert off the event loop. Subgraphs are counted before they are put in place, which may take seconds."""
        self._check_nodes(placed_nodes(document), where)
        return PreparedWorkflow.of_editor(document, catalogue)

    def _check_nodes(self, count: int, where: str) -> None:
        check_nodes(count, self._config.max_nodes, where)

    async def document(self, workflow: Any) -> Any:
        """Return the submitted workflow with its long texts, before it is parsed."""
        return await self._text(workflow, "/workflow")

    async def asset(self, asset_id: str) -> Asset:
        """Read an asset of the tenant once for the whole request. Raises `StorageError`s as `AssetStore.find`."""
        return await self._intake.asset(asset_id)

    async def asset_named(self, file_path: str) -> Asset | None:
        """Return the tenant's newest asset of this name."""
        return await self._intake.asset_named(file_path)

    async def files(self, options: JobOptions, root: str) -> tuple[PreparedFile, ...]:
        return await self._intake.files(options.media, f"{root}/media")

    async def check(self, options: JobOptions, root: str, *, brings_files: bool = True) -> None:
        """Check the options against this deployment's limits, secrets and delivery rules.

        `brings_files` is False if `media` are the stored files of an earlier job, whose number is not limited.
        """
        if brings_files and len(options.media) > self._config.max_media:
            detail = f"{len(options.media)} media, at most {self._config.max_media} are allowed"
            raise Problem("too-many-media", detail, pointer=f"{root}/media")
        self._check_counts(options, root)
        self._check_secrets(options, root)
        if options.webhook_url is not None:
            await check_receiver(self._receivers, self._tenant, options.webhook_url, f"{root}/webhook_url")

    def _check_counts(self, options: JobOptions, root: str) -> None:
        config = self._config
        for name, value, limit in (
            ("timeout_s", options.timeout_s, config.max_timeout_s),
            ("retain_days", options.retain_days, config.retain_s / DAY_S),
        ):
            if value is not None and value > limit:
                raise _beyond(f"{root}/{name}", f"{name} is {value:g}, at most {limit:g} is allowed")
        if options.gpu is not None and options.gpu not in config.gpu_pools:
            known = f"this deployment has {', '.join(config.gpu_pools)}" if config.gpu_pools else "it has no pools"
            raise Problem("unknown-gpu", f"there is no pool {options.gpu!r}: {known}", pointer=f"{root}/gpu")
        if len(options.metadata) > config.max_metadata_pairs:
            detail = f"{len(options.metadata)} metadata, at most {config.max_metadata_pairs} are allowed"
            raise _beyond(f"{root}/metadata", detail)

    def _check_secrets(self, options: JobOptions, root: str) -> None:
        # Refused here because an unsigned event is never sent: the job would run and its owner would get no event.
        signs = self._config.signs_webhooks or options.webhook_secret is not None
        if options.webhook_url is not None and not signs:
            detail = "this deployment has no secret to sign its events with"
            raise Problem("webhooks-unsigned", detail, pointer=f"{root}/webhook_url")
        if options.extra_data is not None and not self._stores.partner_keys.can_seal:
            detail = "this deployment has no secret to seal it with"
            raise Problem("partner-keys-unsealed", detail, pointer=f"{root}/extra_data")
        if options.webhook_secret is not None:
            try:
                secret_bytes(options.webhook_secret)
            except BadSecret as error:
                raise _beyond(f"{root}/webhook_secret", str(error)) from None

    async def job(
        self,
        options: JobOptions,
        workflow: PreparedWorkflow,
        inputs: Sequence[InputValue],
        inputs_at: str,
        workflow_at: str,
    ) -> PreparedJob:
        """Apply the inputs to the graph and validate the result. `files` reads those of `options.media` separately."""
        given = await self.inputs(options, inputs, inputs_at)
        # A graph of the editor's may be much larger than its request, because subgraphs are repeated.
        aside = off_loop if workflow.editor_file is not None else self._body.aside
        report = await aside(self.check_graph, workflow, given, workflow_at)
        if _is_refused(options, report):
            # Off the loop whatever the size of the body: rendering searches for similar names to suggest, which takes
            # milliseconds for a large engine.
            raise await off_loop(_refusal, report, workflow_at, given)
        long = await self._body.aside(_long_values, given.values)
        warnings = await off_loop(report.warnings) if report.faults else {}
        return self._job(options, workflow, given, long, warnings)

    def checked(
        self, options: JobOptions, workflow: PreparedWorkflow, given: PreparedInputs, workflow_at: str
    ) -> PreparedJob:
        """Validate one of many jobs of the same graph, as `job` does, in the thread of the caller."""
        report = self.check_graph(workflow, given, workflow_at)
        if _is_refused(options, report):
            raise _refusal(report, workflow_at, given)
        warnings = report.warnings() if report.faults else {}
        return self._job(options, workflow, given, _long_values(given.values), warnings)

    def _job(
        self,
        options: JobOptions,
        workflow: PreparedWorkflow,
        given: PreparedInputs,
        long: bytes | None,
        warnings: Mapping[str, Any],
    ) -> PreparedJob:
        return PreparedJob(
            options,
            workflow.parts,
            () if long else given.values,
            long,
            given.pictures,
            (),
            graphs=self._graphs,
            warnings=warnings,
        )

    async def inputs(self, options: JobOptions, inputs: Sequence[InputValue], inputs_at: str) -> PreparedInputs:
        """Read a job's inputs: restore their texts, and fetch or decode their images."""
        if len(inputs) > self._config.max_inputs:
            detail = f"{len(inputs)} inputs, at most {self._config.max_inputs} are allowed"
            raise _beyond(inputs_at, detail)
        catalogue = await self.catalogue(options.gpu)
        values, pictures = await self._inputs(inputs, inputs_at)
        # Image inputs become files too, so their generated names must not collide with those that the client chose.
        names = {source.name for source in options.media}
        for picture in pictures:
            if collides(picture.name, names):
                detail = f"{picture.name!r} is the name of an image input's file"
                raise Problem("duplicate-media-name", detail, pointer=inputs_at)
        brought = frozenset((*names, *(picture.name for picture in pictures)))
        return PreparedInputs(tuple(values), tuple(pictures), brought, catalogue, inputs_at)

    def check_graph(self, workflow: PreparedWorkflow, inputs: PreparedInputs, workflow_at: str) -> Report:
        """Apply the values, and validate the graph by the deployment's rules and the engine's. Raises `Problem`."""
        values, catalogue = inputs.values, inputs.catalogue
        # The policy and the rules apply to the graph with its inputs set: an input may carry what they refuse.
        try:
            applied = catalogue.apply(workflow.graph, [(i.node, i.field, i.value) for i in values])
        except WorkflowError as error:
            raise of_workflow(error, inputs.inputs_at) from error
        try:
            self._check_safety(applied, catalogue)
        except WorkflowError as error:
            raise of_workflow(workflow.located(error), workflow_at) from error
        report = catalogue.check(applied, inputs.brought)
        given = {pointer(one.node, "inputs", one.field) for one in values}
        for fault in report.faults:
            # A value that `inputs` sets stands there, and not in the file.
            if fault.pointer not in given:
                workflow.located(fault)
        return report

    def _check_safety(self, graph: Graph, catalogue: Catalogue) -> None:
        """Apply the node policy and, for strangers' graphs, the stricter input rules."""
        # The published object_info may be missing or stale here, so the worker applies the strangers' rules again.
        self._config.node_policy.check(graph, self._graphs)
        if self._graphs == "strangers":
            strangers.check(graph, catalogue)

    async def catalogue(self, gpu: str | None) -> Catalogue:
        """Return the pool's catalogue, read once per request so that all jobs are validated against the same one."""
        pool = gpu or DEFAULT_POOL
        if pool not in self._catalogues:
            self._catalogues[pool] = await self._stores.engine_info.catalogue(pool)
        return self._catalogues[pool]

    async def _inputs(self, inputs: Sequence[InputValue], root: str) -> tuple[list[Input], list[LocalFile]]:
        """Return the values to set, and the files of the image inputs."""
        values: list[Input] = []
        pictures: list[LocalFile] = []
        for position, given in enumerate(inputs):
            where = f"{root}/{position}/value"
            if given.type == "raw":
                value = await self._text(given.value, where)
                values.append(Input(node=given.node, field=given.field, value=value))
                continue
            picture = await self._intake.picture(given, position, where)
            pictures.append(picture)
            values.append(Input(node=given.node, field=given.field, value=picture.name))
        return values, pictures

    async def _text(self, value: Any, where: str) -> Any:
        try:
            return await self._body.restored(value, self._config.text_limits)
        except TextTooLong as error:
            raise Problem("text-too-long", str(error), pointer=where) from None
        except BadText as error:
            raise Problem("malformed-json", str(error), pointer=where) from None


def _beyond(where: str, detail: str) -> Problem:
    return Problem("validation-error", detail, pointer=where)


def _is_refused(options: JobOptions, report: Report) -> bool:
    """Return whether the job does not run: like ComfyUI it runs the outputs that are valid, unless it is `strict`."""
    return report.is_refusal or (options.strict and bool(report.faults))


def _refusal(report: Report, workflow_at: str, inputs: PreparedInputs) -> Problem:
    values = enumerate(inputs.values)
    return of_report(
        report,
        workflow_at,
        {pointer(one.node, "inputs", one.field): f"{inputs.inputs_at}/{n}/value" for n, one in values},
    )


def _long_values(values: Sequence[Input]) -> bytes | None:
    """Return the values as JSON if they are too long for a record, or None."""
    written = to_json([value.model_dump() for value in values])
    return written if weight(written) > MOST_IN_RECORD else None

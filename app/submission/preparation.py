"""Checking a submission: whatever can be refused is refused here, before anything is stored.

counts → graph → inputs → node classes → media (decode, fetch, look up)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from app.body import BadText, Body, Place, TextTooLong
from app.config import ApiConfig
from app.heavy import off_loop
from app.problems import Problem, of_report, of_validation, of_workflow
from app.services import Services
from app.submission.fetching import url_count
from app.submission.media import LocalMedium, MediaIntake, PreparedMedium, collides
from app.wire.jobs import InputValue, JobOptions, JobRequest
from storage.jobs.models import Input
from storage.jobs.record import DAY_S
from storage.keys import DEFAULT_POOL
from storage.webhooks.receivers import ReceiverRules
from storage.webhooks.signing import BadSecret, secret_bytes
from workflows import strangers
from workflows.catalogue import Catalogue
from workflows.errors import WorkflowError, pointer
from workflows.graph import Graph, parse_graph
from workflows.policy import GraphTrust
from workflows.report import Report

LONG_IN_JOBS: tuple[Place, ...] = (
    ("workflow",),
    ("inputs", "*", "value"),
    ("media", "*", "data"),
    ("media", "*", "url"),
)
"""Where this expects strings that are still in a file. In a batch the same below each of its jobs, and its sets."""
LONG_IN_BATCHES: tuple[Place, ...] = (
    *LONG_IN_JOBS,
    *(("jobs", "*", *place) for place in LONG_IN_JOBS),
    ("input_sets", "*", "*", "value"),
)

MOST_IN_RECORD = 64 * 1024
"""Bytes of inputs: a list of 200 jobs reads 200 records."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class PreparedWorkflow:
    """`document` is the graph as it came, to be stored: JSON."""

    document: bytes
    graph: Graph
    shape: str

    @classmethod
    def of(cls, document: Any) -> "PreparedWorkflow":
        """Work that grows with the document, for all jobs that share it. Raises `WorkflowError`."""
        graph = parse_graph(document)
        return cls(to_json(document), graph, graph.shape())


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job that nothing is wrong with. Its `media` may be those of other jobs, too; `pictures` are its own."""

    options: JobOptions
    workflow: PreparedWorkflow
    inputs: tuple[Input, ...]
    values: bytes | None
    """The inputs as JSON, where they are too long for the record."""
    pictures: tuple[LocalMedium, ...]
    media: tuple[PreparedMedium, ...]
    graphs: GraphTrust
    """The rules that it was accepted by."""
    warnings: Mapping[str, Any]
    """By node id, why some of its outputs do not run."""

    @property
    def pool(self) -> str:
        """Whose workers are to run it."""
        return self.options.gpu or DEFAULT_POOL


async def check_receiver(receivers: ReceiverRules, tenant: str, url: str, where: str) -> None:
    """What its delivery would be refused for anyway is refused now, in the same words."""
    if (reason := await receivers.refusal(tenant, url)) is not None:
        raise Problem("webhook-refused", reason, pointer=where)


def parsed(model: type[M], document: Any) -> M:
    """The document as a request body of this shape; `Problem` with every field that is wrong."""
    if not isinstance(document, dict):
        raise Problem("validation-error", "the body is not a JSON object", pointer="")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise of_validation(error) from error


class Preparation:
    """Of one request. `root` is always where the thing at hand stands in the request; all methods raise `Problem`."""

    def __init__(self, services: Services, config: ApiConfig, tenant: str, body: Body, graphs: GraphTrust) -> None:
        self._graphs = graphs
        self._stores, self._receivers = services.stores, services.receivers
        self._config = config
        self._tenant = tenant
        self._body = body
        self._intake = MediaIntake(services, config, tenant, body)
        self._catalogues: dict[str, Catalogue] = {}

    def check_urls(self, count: int, most: int) -> None:
        """Of the whole request, before the first one is fetched."""
        if count > most:
            detail = f"{count} URLs to fetch, at most {most} are allowed in such a request"
            raise Problem("too-many-urls", detail, pointer="")

    async def only_job(self, request: JobRequest) -> PreparedJob:
        """Everything of a request for one job."""
        self.check_urls(url_count(request.media, request.inputs), self._config.max_urls)
        return await self.whole_job(request)

    async def whole_job(self, request: JobRequest, root: str = "") -> PreparedJob:
        """Everything of one job; its media last, for they are what takes long."""
        await self.check(request, root)
        workflow = await self.workflow(request.workflow, root)
        prepared = await self.job(request, workflow, request.inputs, f"{root}/inputs", f"{root}/workflow")
        return replace(prepared, media=await self.media(request, root))

    async def workflow(self, document: Any, root: str) -> PreparedWorkflow:
        where = f"{root}/workflow"
        document = await self._text(document, where)
        if document is None:
            raise Problem("missing-workflow", "`workflow` is null", pointer=where)
        if isinstance(document, dict) and len(document) > self._config.max_nodes:
            detail = f"{len(document)} nodes, at most {self._config.max_nodes} are allowed"
            raise Problem("too-many-nodes", detail, pointer=where)
        try:
            return await self._body.aside(PreparedWorkflow.of, document)
        except WorkflowError as error:
            raise of_workflow(error, where) from error

    async def media(self, options: JobOptions, root: str) -> tuple[PreparedMedium, ...]:
        return await self._intake.media(options.media, f"{root}/media")

    async def check(self, options: JobOptions, root: str) -> None:
        """The counts and values that a schema cannot know."""
        self._check_counts(options, root)
        self._check_secrets(options, root)
        if options.webhook_url is not None:
            await check_receiver(self._receivers, self._tenant, options.webhook_url, f"{root}/webhook_url")

    def _check_counts(self, options: JobOptions, root: str) -> None:
        config = self._config
        if len(options.media) > config.max_media:
            detail = f"{len(options.media)} media, at most {config.max_media} are allowed"
            raise Problem("too-many-media", detail, pointer=f"{root}/media")
        for field, value, limit in (
            ("timeout_s", options.timeout_s, config.max_timeout_s),
            ("retain_days", options.retain_days, config.retain_s / DAY_S),
        ):
            if value is not None and value > limit:
                raise _beyond(f"{root}/{field}", f"{field} is {value:g}, at most {limit:g} is allowed")
        if options.gpu is not None and options.gpu not in config.gpu_pools:
            known = f"this deployment has {', '.join(config.gpu_pools)}" if config.gpu_pools else "it has no pools"
            raise Problem("unknown-gpu", f"there is no pool {options.gpu!r}: {known}", pointer=f"{root}/gpu")
        if len(options.metadata) > config.max_metadata_pairs:
            detail = f"{len(options.metadata)} metadata, at most {config.max_metadata_pairs} are allowed"
            raise _beyond(f"{root}/metadata", detail)

    def _check_secrets(self, options: JobOptions, root: str) -> None:
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
        *,
        one_of_many: bool = False,
    ) -> PreparedJob:
        """Without the media of its options, which come by `media`. One of many is checked off the event loop, whatever
        its size."""
        if len(inputs) > self._config.max_inputs:
            detail = f"{len(inputs)} inputs, at most {self._config.max_inputs} are allowed"
            raise _beyond(inputs_at, detail)
        catalogue = await self._catalogue(options.gpu or DEFAULT_POOL)
        values, pictures = await self._inputs(inputs, inputs_at)
        names = {medium.name for medium in options.media}
        for picture in pictures:
            if collides(picture.name, names):
                detail = f"{picture.name!r} is the name of an image input's file"
                raise Problem("duplicate-media-name", detail, pointer=inputs_at)
        brought = frozenset((*names, *(picture.name for picture in pictures)))
        aside = off_loop if one_of_many else self._body.aside
        report = await aside(self._judge, workflow.graph, values, brought, catalogue, inputs_at, workflow_at)
        if report.is_refusal or (options.strict and report.faults):
            given = {pointer(i.node, "inputs", i.field): f"{inputs_at}/{n}/value" for n, i in enumerate(values)}
            raise await self._body.aside(of_report, report, workflow_at, given)  # it searches names to suggest
        long = await self._body.aside(_long_values, values)
        return PreparedJob(
            options,
            workflow,
            () if long else tuple(values),
            long,
            tuple(pictures),
            (),
            graphs=self._graphs,
            warnings=report.warnings(),
        )

    def _judge(
        self,
        graph: Graph,
        values: Sequence[Input],
        brought: frozenset[str],
        catalogue: Catalogue,
        inputs_at: str,
        workflow_at: str,
    ) -> Report:
        try:
            applied = catalogue.apply(graph, [(i.node, i.field, i.value) for i in values])
        except WorkflowError as error:
            raise of_workflow(error, inputs_at) from error
        self._check_safety(applied, catalogue, workflow_at)
        return catalogue.judge(applied, brought)

    def _check_safety(self, graph: Graph, catalogue: Catalogue, where: str) -> None:
        """By what the graph says, and by what is known of the engine; the worker checks the latter again."""
        try:
            self._config.node_policy.check(graph, self._graphs)
            if self._graphs == "strangers":
                strangers.check(graph, catalogue)
        except WorkflowError as error:
            raise of_workflow(error, where) from error

    async def _catalogue(self, pool: str) -> Catalogue:
        """The same for every job of one request."""
        if pool not in self._catalogues:
            self._catalogues[pool] = await self._stores.engine_info.catalogue(pool)
        return self._catalogues[pool]

    async def _inputs(self, inputs: Sequence[InputValue], root: str) -> tuple[list[Input], list[LocalMedium]]:
        """The values to set, and the pictures that some of them bring along as files."""
        values: list[Input] = []
        pictures: list[LocalMedium] = []
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


def _long_values(values: Sequence[Input]) -> bytes | None:
    """As JSON, if they are too long for a record."""
    written = to_json([value.model_dump() for value in values])
    return written if len(written) > MOST_IN_RECORD else None

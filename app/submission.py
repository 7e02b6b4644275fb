"""Accepting a job: everything is checked first, then stored, and job.json last. A refusal leaves no object behind.

parse → graph → inputs → node classes → media (decode, fetch, look up) → put media → create the job → spawn
"""

import asyncio
import logging
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import filetype
from pydantic import ValidationError
from pydantic_core import to_json

from app.body import BadBase64, BadText, Body, BodyTooLarge, TextTooLong
from app.config import ApiConfig
from app.problems import Problem, of_validation, of_workflow
from app.services import Services
from app.wire import InputValue, JobRequest, MediumSource
from storage import keys
from storage.errors import (
    FetchFailed,
    FetchRefused,
    JobNotFound,
    PreconditionFailed,
    StorageError,
    UploadIncomplete,
    UploadNotFound,
)
from storage.jobs import StoredJob
from storage.record import Input, JobRecord, Medium
from storage.together import together
from workflows.catalogue import Catalogue
from workflows.errors import WorkflowError, pointer
from workflows.graph import Graph, parse_graph

logger = logging.getLogger(__name__)

DEFAULT_POOL = "default"
DEFAULT_ESTIMATE_S = 30
_FORBIDDEN_IN_NAMES = frozenset('/\\\0:*?"<>|')
LONGEST_NAME_BYTES = 200


@dataclass(frozen=True, slots=True)
class _LocalMedium:
    """A medium that waits in a local file to be stored."""

    name: str
    path: Path
    size_bytes: int
    content_type: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """`is_replay`: an earlier request with this Idempotency-Key made the job."""

    stored: StoredJob
    estimated_s: int
    is_replay: bool = False


class Submission:
    """One POST /v1/jobs, from its body on."""

    def __init__(
        self, services: Services, config: ApiConfig, tenant: str, body: Body, idempotency_key: str | None = None
    ) -> None:
        self._services = services
        self._config = config
        self._tenant = tenant
        self._body = body
        self._idempotency_key = idempotency_key
        self._workflow: Any = None

    async def accept(self, document: Any) -> Accepted:
        """`Problem` for whatever is wrong with the request; nothing is stored then."""
        request = self._request(document)
        graph = self._graph(request)
        catalogue = Catalogue(await self._services.engine_info.load(DEFAULT_POOL))
        inputs, pictures = await self._inputs(request.inputs)
        try:
            applied = catalogue.apply(graph, [(i.node, i.field, i.value) for i in inputs])
        except WorkflowError as error:
            raise of_workflow(error, "/inputs") from error
        try:
            catalogue.check(applied)
        except WorkflowError as error:
            raise of_workflow(error, "/workflow") from error
        media = [*pictures, *await self._media(request.media)]
        return await self._store(request, graph, inputs, media)

    # What was asked.

    def _request(self, document: Any) -> JobRequest:
        if not isinstance(document, dict):
            raise Problem("validation-error", "the body is not a JSON object", pointer="")
        try:
            request = JobRequest.model_validate(document)
        except ValidationError as error:
            raise of_validation(error) from error
        self._check_counts(request)
        if request.webhook_url is not None and urlsplit(request.webhook_url).scheme not in ("http", "https"):
            raise Problem("validation-error", "webhook_url is not an http or https URL", pointer="/webhook_url")
        return request

    def _check_counts(self, request: JobRequest) -> None:
        config = self._config
        if len(request.media) > config.max_media:
            raise Problem(
                "too-many-media",
                f"{len(request.media)} media, at most {config.max_media} are allowed",
                pointer="/media",
            )
        if request.timeout_s is not None and request.timeout_s > config.max_timeout_s:
            detail = f"timeout_s is {request.timeout_s}, at most {config.max_timeout_s} are allowed"
            raise Problem("validation-error", detail, pointer="/timeout_s")
        for field, count, limit in (
            ("inputs", len(request.inputs), config.max_inputs),
            ("metadata", len(request.metadata), config.max_metadata_pairs),
        ):
            if count > limit:
                raise Problem("validation-error", f"{count} {field}, at most {limit} are allowed", pointer=f"/{field}")

    def _graph(self, request: JobRequest) -> Graph:
        """The graph; the document itself is kept, to be stored as it came."""
        self._workflow = self._text(request.workflow, "/workflow")
        if self._workflow is None:
            raise Problem("missing-workflow", "`workflow` is null", pointer="/workflow")
        try:
            graph = parse_graph(self._workflow)
        except WorkflowError as error:
            raise of_workflow(error, "/workflow") from error
        if len(graph.nodes) > self._config.max_nodes:
            detail = f"{len(graph.nodes)} nodes, at most {self._config.max_nodes} are allowed"
            raise Problem("too-many-nodes", detail, pointer="/workflow")
        return graph

    def _text(self, value: Any, where: str) -> Any:
        try:
            return self._body.restore(value, self._config.max_text_bytes)
        except TextTooLong as error:
            raise Problem("text-too-long", str(error), pointer=where) from None
        except BadText as error:
            raise Problem("malformed-json", str(error), pointer=where) from None

    # Inputs and media.

    async def _inputs(self, inputs: list[InputValue]) -> tuple[list[Input], list[_LocalMedium]]:
        """The values to set, and the pictures that some of them bring along as files."""
        values: list[Input] = []
        pictures: list[_LocalMedium] = []
        for position, given in enumerate(inputs):
            where = f"/inputs/{position}/value"
            if given.type == "raw":
                values.append(Input(node=given.node, field=given.field, value=self._text(given.value, where)))
                continue
            picture = await self._picture(given, position, where)
            pictures.append(picture)
            values.append(Input(node=given.node, field=given.field, value=picture.name))
        return values, pictures

    async def _picture(self, given: InputValue, position: int, where: str) -> _LocalMedium:
        if not isinstance(given.value, str):
            raise Problem("validation-error", f"{where} is not a string", pointer=where)
        path = self._body.new_file(f"input-{position}")
        if given.type == "image_url":
            medium = await self._fetched("picture", given.value, path, where)
        else:
            medium = await self._decoded("picture", given.value, path, where)
        extension = _extension(path)
        name = f"input_{given.node}_{position}.{extension}"
        return _LocalMedium(_plain(name), path, medium.size_bytes, medium.content_type)

    async def _media(self, sources: list[MediumSource]) -> list[_LocalMedium | Medium]:
        names: set[str] = set()
        found: list[_LocalMedium | Medium] = []
        for position, source in enumerate(sources):
            where = pointer("media", position)
            _check_name(source.name, f"{where}/name")
            if source.name in names:
                raise Problem("duplicate-media-name", f"{source.name!r} is given twice", pointer=f"{where}/name")
            names.add(source.name)
            found.append(await self._medium(source, self._body.new_file(f"medium-{position}"), where))
        return found

    async def _medium(self, source: MediumSource, path: Path, where: str) -> _LocalMedium | Medium:
        given = [kind for kind in ("data", "url", "upload_id") if getattr(source, kind) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "none of data, url and upload_id"
            raise Problem("media-source-ambiguous", f"{source.name!r} has {said}", pointer=where)
        if source.data is not None:
            return await self._decoded(source.name, source.data, path, f"{where}/data")
        if source.url is not None:
            return await self._fetched(source.name, source.url, path, f"{where}/url")
        return await self._uploaded(source.name, source.upload_id or "", f"{where}/upload_id")

    async def _decoded(self, name: str, value: str, path: Path, where: str) -> _LocalMedium:
        limit = self._config.max_medium_bytes
        try:
            size = await asyncio.to_thread(self._body.spooled(value).decode_base64, path, limit)
        except BodyTooLarge:
            raise Problem("medium-too-large", f"{name!r} has more than {limit} bytes", pointer=where) from None
        except BadBase64 as error:
            raise Problem("bad-base64", f"{name!r}: {error}", pointer=where) from None
        if size == 0:
            raise Problem("bad-base64", f"{name!r} is empty", pointer=where)
        return _LocalMedium(name, path, size, filetype.guess_mime(str(path)) or "application/octet-stream")

    async def _fetched(self, name: str, url: str, path: Path, where: str) -> _LocalMedium:
        try:
            fetched = await self._services.fetcher.fetch(self._body.spooled(url).text(2048), path)
        except (FetchRefused, TextTooLong, BadText) as error:
            raise Problem("fetch-refused", f"{name!r}: {error}", pointer=where) from None
        except FetchFailed as error:
            raise Problem("fetch-failed", f"{name!r}: {error}", pointer=where) from None
        return _LocalMedium(name, path, fetched.size_bytes, fetched.content_type)

    async def _uploaded(self, name: str, upload_id: str, where: str) -> Medium:
        """Used where it lies: an upload can be written once only, so it will not change."""
        try:
            upload = await self._services.uploads.resolve(self._tenant, upload_id)
        except UploadNotFound:
            raise Problem("unknown-upload", f"there is no upload {upload_id!r}", pointer=where) from None
        except UploadIncomplete as error:
            raise Problem("upload-incomplete", str(error), pointer=where) from None
        return Medium(name=name, key=upload.key, size_bytes=upload.size_bytes, content_type=upload.content_type)

    # Storing.

    async def _store(
        self, request: JobRequest, graph: Graph, inputs: list[Input], media: list[_LocalMedium | Medium]
    ) -> Accepted:
        shape = graph.shape()
        estimate = await self._services.runtimes.estimate(self._tenant, shape) or DEFAULT_ESTIMATE_S
        job_id, earlier = await self._identify()
        if earlier is not None:
            return Accepted(earlier, estimate, is_replay=True)
        stored_media = await self._put_media(job_id, media)
        record = JobRecord(
            tenant=self._tenant,
            job_id=job_id,
            pool=DEFAULT_POOL,
            priority=request.priority,
            timeout_s=request.timeout_s or self._config.default_timeout_s,
            metadata=request.metadata,
            webhook_url=request.webhook_url,
            webhook_events=tuple(request.webhook_events),
            inputs=tuple(inputs),
            media=stored_media,
            workflow_shape=shape,
            created_at=self._services.clock.now(),
        )
        try:
            stored = await self._services.jobs.create(record, workflow=to_json(self._workflow))
        except PreconditionFailed:  # the same request, sent twice at once: the other one was quicker
            return Accepted(await self._services.jobs.read(self._tenant, job_id), estimate, is_replay=True)
        try:
            await self._services.launcher.spawn(record.pool)
        except Exception:  # the job is safe: whoever looks at the queue next runs it
            logger.exception("no worker could be started", extra={"job_id": job_id})
        return Accepted(stored, estimate)

    async def _identify(self) -> tuple[str, StoredJob | None]:
        """The job's id, and the job if an earlier request with this Idempotency-Key made it already."""
        if self._idempotency_key is None:
            return str(uuid.uuid4()), None
        claim = await self._services.idempotency.claim(
            self._tenant, "jobs", self._idempotency_key, self._body.fingerprint
        )
        if claim.is_first:
            return claim.id, None
        try:
            return claim.id, await self._services.jobs.read(self._tenant, claim.id)
        except JobNotFound:
            return claim.id, None  # its maker crashed in between, or is not ready: make it, under the same id

    async def _put_media(self, job_id: str, media: list[_LocalMedium | Medium]) -> tuple[Medium, ...]:
        try:
            return tuple(
                await together(*(self._put_medium(job_id, number, medium) for number, medium in enumerate(media)))
            )
        except StorageError:
            await self._services.objects.delete(
                *(keys.input_medium(self._tenant, job_id, number) for number in range(len(media)))
            )
            raise

    async def _put_medium(self, job_id: str, position: int, medium: _LocalMedium | Medium) -> Medium:
        if isinstance(medium, Medium):
            return medium
        key = keys.input_medium(self._tenant, job_id, position)
        await self._services.objects.upload_file(key, medium.path, content_type=medium.content_type)
        return Medium(name=medium.name, key=key, size_bytes=medium.size_bytes, content_type=medium.content_type)


def _check_name(name: str, where: str) -> None:
    """A plain file name: loader nodes and file systems must not see anything else in it."""
    plain = not _FORBIDDEN_IN_NAMES & set(name) and name.isprintable() and name.strip(" .") == name
    if not name or not plain or len(name.encode()) > LONGEST_NAME_BYTES:
        raise Problem("bad-media-name", f"{name[:100]!r} is not a plain file name", pointer=where)


def _plain(name: str) -> str:
    """Node ids may hold anything."""
    return "".join(character if character.isalnum() or character in "._-" else "_" for character in name)[-100:]


def _extension(path: Path) -> str:
    kind = filetype.guess(str(path))
    return kind.extension if kind else "png"

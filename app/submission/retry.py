"""Prepares a job that repeats a finished one: the same graph, inputs, files and options, checked as a new submission.

Uploads are used in place. The other input files belong to the finished job, or to assets that may be gone soon, so they
are copied within the bucket.
"""

import asyncio
import json
import re
from dataclasses import replace

from app.body import PARSED, Body
from app.problems import Problem, of_workflow
from app.services import Services
from app.submission.input_files import HeldFile, LocalFile, PreparedFile
from app.submission.preparation import Preparation, PreparedJob, PreparedWorkflow
from app.submission.request import InputValue, JobOptions, MediumSource
from storage import keys
from storage.concurrency import map_bounded
from storage.errors import ObjectNotFound
from storage.jobs.models import InputFile
from storage.jobs.record import DAY_S, JobRecord
from storage.jobs.store import StoredJob
from storage.keys import DEFAULT_POOL
from workflows.errors import WorkflowError

LONG_VALUES = 1024**2
"""Bytes that the values of a job count, which were stored separately because they are long."""

_UPLOAD = re.compile(r"tenants/[^/]+/uploads/(?P<upload_id>[^/]+)/data")


class Retry:
    """Prepares one retry. Every method raises `Problem`."""

    def __init__(self, services: Services, tenant: str, body: Body) -> None:
        self._services, self._stores = services, services.stores
        self._tenant = tenant
        self._body = body

    async def prepared(self, stored: StoredJob) -> PreparedJob:
        record = stored.record
        if not record.status.is_terminal:
            raise Problem("job-not-over", f"the job is {record.status}")
        if record.has_partner_key:
            # It was deleted at the end of the job, so that no key outlives its use.
            raise _gone("its key for partner nodes was deleted when it ended")
        # As for a body of that size: its stored graph and values have megabytes, and must not be checked on the loop.
        await self._body.take_place()
        document, editor_file, values, options, files = await asyncio.gather(
            self._stores.jobs.workflow(self._tenant, record.job_id),
            self._editor_file(record),
            self._stores.jobs.inputs(record),
            self._options(record),
            map_bounded(record.input_files, self._file),
        )
        await self._body.hold(PARSED * len(document) + (LONG_VALUES if record.has_values else 0))
        # Checked anew: since then the engine may have lost a node class, or the operator may have forbidden one.
        preparation = Preparation(self._services, self._tenant, self._body, record.graphs)
        # The files of image inputs are among `media` here, and `max_media` never counted them.
        await preparation.check(options, "", brings_files=False)
        try:
            workflow = replace(await self._body.aside(_workflow, document), editor_file=editor_file)
        except WorkflowError as error:  # it was accepted under other limits
            raise of_workflow(error, "/workflow") from error
        inputs = [InputValue(node=one.node, field=one.field, value=one.value) for one in values]
        prepared = await preparation.job(options, workflow, inputs, "/inputs", "/workflow")
        return replace(prepared, files=tuple(files), workflow_name=record.workflow_name, retry_of=record.job_id)

    async def _options(self, record: JobRecord) -> JobOptions:
        secret = None
        if record.has_webhook_secret:
            secret = (await self._read(keys.webhook_secret(self._tenant, record.job_id))).decode()
        return JobOptions(
            media=[MediumSource(name=file.name) for file in record.input_files],
            priority=record.priority,
            timeout_s=min(record.timeout_s, self._services.config.max_timeout_s),
            queue_timeout_s=record.queue_timeout_s,
            deadline_s=record.deadline_s,
            # 0 for a job that is being removed.
            retain_days=min(record.retain_s, self._services.config.retain_s) / DAY_S if record.retain_s else None,
            strict=record.is_strict,
            gpu=None if record.pool == DEFAULT_POOL else record.pool,
            metadata=record.metadata,
            webhook_url=record.webhook_url,
            webhook_secret=secret,
            webhook_events=list(record.webhook_events),
        )

    async def _editor_file(self, record: JobRecord) -> bytes | None:
        if record.workflow_format == "api":
            return None
        return await self._stores.jobs.editor_file(self._tenant, record.job_id)

    async def _file(self, file: InputFile) -> PreparedFile:
        upload = _UPLOAD.fullmatch(file.key)
        if upload is not None and await self._stores.uploads.is_known(self._tenant, upload["upload_id"]):
            return HeldFile(file, "upload", upload["upload_id"])
        try:
            await self._stores.objects.head(file.key)
        except ObjectNotFound:
            raise _gone(f"the file {file.name} was removed") from None
        return LocalFile(file.name, file.key, file.size_bytes, file.content_type)

    async def _read(self, key: str) -> bytes:
        try:
            return (await self._stores.objects.get(key)).body
        except ObjectNotFound:
            raise _gone("its webhook secret was removed") from None


def _workflow(document: bytes) -> PreparedWorkflow:
    return PreparedWorkflow.of(json.loads(document))


def _gone(what: str) -> Problem:
    return Problem("inputs-gone", f"the job cannot be retried: {what}")

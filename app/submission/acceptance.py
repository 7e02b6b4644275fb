"""Accepts one validated job. The commit of its job.json is the acceptance; everything written before it is a draft.

quotas → (workflow, timer and index keys ∥ claim of the Idempotency-Key) → job.json → ticket
"""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from app.services import Services
from app.submission.input_files import HeldFile, LocalFile
from app.submission.preparation import PreparedJob
from app.submission.quotas import Quotas
from storage import keys
from storage.batch_record import BatchRecord
from storage.concurrency import both, map_bounded
from storage.errors import IdempotencyKeyReused, JobGone, JobNotFound, PreconditionFailed, StorageError
from storage.jobs.idempotency import Claim
from storage.jobs.models import InputFile
from storage.jobs.record import DAY_S, JobRecord
from storage.jobs.store import Source, StoredJob

logger = logging.getLogger(__name__)

DEFAULT_ESTIMATE_S = 30
"""Estimated run time in seconds of a workflow shape without recorded run times."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted job. `is_replay` marks a job that an earlier request with the same Idempotency-Key created."""

    stored: StoredJob
    estimated_s: int
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """Identifies a request: its Idempotency-Key, a hash of its body (`fingerprint`), and its W3C trace context."""

    idempotency_key: str | None
    fingerprint: str
    traceparent: str | None = None


class Acceptance:
    """Accepts the jobs of one request. `replayed` is called before `job`.

    `scope` is the operation to which the Idempotency-Key of a single job belongs.
    """

    def __init__(self, services: Services, tenant: str, scope: str = "jobs") -> None:
        self._stores = services.stores
        self._tickets = services.tickets
        self._config = services.config
        self._tenant = tenant
        self._scope = scope
        self._quotas = Quotas(services, tenant)
        self._claimed_id: str | None = None
        """A job id claimed by an earlier request that crashed before it committed the job."""

    async def replayed(self, identity: Identity) -> Accepted | None:
        """Return the job that an earlier request with the same Idempotency-Key created, or None."""
        # This runs before the request is validated: the uploads and URLs that it names may no longer exist.
        self._claimed_id = await self.known(self._scope, identity)
        return None if self._claimed_id is None else await self._replay(self._claimed_id)

    async def job(self, prepared: PreparedJob, identity: Identity) -> Accepted:
        """Accept the job, or return the job that a concurrent request with the same Idempotency-Key created.

        Raises `Problem` where a quota is exceeded.
        """
        job_id = self._claimed_id or str(uuid.uuid4())
        async with self._quotas.admitted({job_id: prepared}) as admission:
            preparing = self._claim_and_prepare(prepared, job_id, identity)
            # The estimate is read in parallel: read after the commit, it would add a round trip to the response.
            (claimed_id, draft), estimated_s = await both(preparing, self._estimate_s(prepared.workflow.shape))
            if claimed_id != job_id:
                # A concurrent request with the same key claimed the key first, so this draft's id is never committed.
                self._stores.jobs.discard_prepared(draft)
                if (replayed := await self._replay(claimed_id)) is not None:
                    admission.is_used = False
                    return replayed
                draft = await self._prepare(prepared, claimed_id, identity)
            try:
                stored = await self._stores.jobs.accept(draft)
            except PreconditionFailed:  # the other request with this key committed the job in the meantime
                admission.is_used = False
                return await self._accepted(await self._stores.jobs.read(self._tenant, draft.job_id), is_replay=True)
        await self.request_workers(stored.record.pool)
        return Accepted(stored, estimated_s)

    async def _claim_and_prepare(self, prepared: PreparedJob, job_id: str, identity: Identity) -> tuple[str, JobRecord]:
        """Claim the Idempotency-Key and prepare the draft `job_id` in parallel.

        Returns the id that the key is bound to, which differs from `job_id` after a lost race, and the draft.
        """
        preparing = self._prepare(prepared, job_id, identity)
        if identity.idempotency_key is None:
            return job_id, await preparing
        if self._claimed_id is not None:
            # The process that made the claim may have died before it wrote the claim's timer.
            arming = self._stores.idempotency.arm(self._tenant, self._scope, identity.idempotency_key)
            repeated, _ = await both(preparing, arming)
            return job_id, repeated
        claiming = self._claim(self._scope, identity, job_id)
        # Both results are needed even if one fails: which draft may be discarded depends on how the claim ended.
        claim, draft = await asyncio.gather(claiming, preparing, return_exceptions=True)
        if isinstance(draft, BaseException):
            raise draft
        if isinstance(claim, IdempotencyKeyReused):
            # After any other failure of the claim, a repeat of the request may use this id.
            self._stores.jobs.discard_prepared(draft)
        if isinstance(claim, BaseException):
            raise claim
        return claim.id, draft

    async def _replay(self, job_id: str) -> Accepted | None:
        """Return the job that was committed under a claimed id, or None if none was. Raises `JobGone`."""
        try:
            return await self._accepted(await self._stores.jobs.read(self._tenant, job_id), is_replay=True)
        except JobGone:  # a subclass of JobNotFound, but the job did exist, so it must not be made again
            raise
        except JobNotFound:
            # The claiming request crashed before its commit, or has not committed yet. The caller accepts the job
            # under the same id, so that at most one of the two commits succeeds.
            return None

    async def _accepted(self, stored: StoredJob, *, is_replay: bool) -> Accepted:
        return Accepted(stored, await self._estimate_s(stored.record.workflow_shape), is_replay)

    async def _estimate_s(self, shape: str) -> int:
        """Estimate the run time in seconds of a workflow shape from the tenant's recent jobs."""
        try:
            estimate = await self._stores.runtimes.estimate(self._tenant, shape)
        except StorageError:  # the estimate is informative: a failed read does not refuse the job
            return DEFAULT_ESTIMATE_S
        return DEFAULT_ESTIMATE_S if estimate is None else estimate

    async def _prepare(self, prepared: PreparedJob, job_id: str, identity: Identity) -> JobRecord:
        record, uploads = self.draft(prepared, job_id, self._stores.clock.now(), identity)
        graph = await prepared.workflow.graph()
        preparing = self._stores.jobs.prepare(
            record, workflow=graph, uploads=uploads, extras=self.extras(prepared, record)
        )
        try:
            draft, _ = await both(preparing, self.hold_files(prepared, job_id))
        except Exception:
            if identity.idempotency_key is None:  # else a repeat of the request may be storing the same job
                self._stores.jobs.discard_prepared(record)
            raise
        return draft

    async def known(self, scope: str, identity: Identity) -> str | None:
        """Return the id that an earlier request with this Idempotency-Key claimed. Raises `IdempotencyKeyReused`."""
        if identity.idempotency_key is None:
            return None
        return await self._stores.idempotency.known(self._tenant, scope, identity.idempotency_key, identity.fingerprint)

    async def identify(self, scope: str, identity: Identity) -> tuple[str, bool]:
        """Claim an id for a new resource; call `known` first. The flag is False if an earlier request claimed it."""
        job_id = str(uuid.uuid4())
        if identity.idempotency_key is None:
            return job_id, True
        claim = await self._claim(scope, identity, job_id)
        return claim.id, claim.is_first

    async def _claim(self, scope: str, identity: Identity, mine: str) -> Claim:
        return await self._stores.idempotency.claim(
            self._tenant, scope, identity.idempotency_key or "", identity.fingerprint, mine=mine
        )

    def draft(
        self,
        prepared: PreparedJob,
        job_id: str,
        created_at: datetime,
        identity: Identity,
        *,
        batch: BatchRecord | None = None,
        shared: Mapping[LocalFile, InputFile] | None = None,
    ) -> tuple[JobRecord, dict[InputFile, Source]]:
        """Build the record and the files to upload with it. `shared` are local files that are stored already."""
        input_files, uploads = self._input_files(prepared, job_id, shared or {})
        options, config = prepared.options, self._config
        record = JobRecord(
            tenant=self._tenant,
            job_id=job_id,
            batch_id=None if batch is None else batch.batch_id,
            is_batch_reported=batch is not None and batch.webhook_url is not None,
            pool=prepared.pool,
            priority=options.priority,
            timeout_s=options.timeout_s or config.default_timeout_s,
            queue_timeout_s=options.queue_timeout_s or config.queue_timeout_s,
            deadline_s=options.deadline_s,
            retain_s=config.retain_s if options.retain_days is None else round(options.retain_days * DAY_S),
            metadata=options.metadata,
            webhook_url=options.webhook_url,
            webhook_events=tuple(options.webhook_events),
            has_webhook_secret=options.webhook_secret is not None,
            has_partner_key=options.extra_data is not None,
            graphs=prepared.graphs,
            is_strict=options.strict,
            warnings=dict(prepared.warnings),
            traceparent=identity.traceparent,
            inputs=prepared.inputs,
            has_values=prepared.values is not None,
            input_files=tuple(input_files),
            retry_of=prepared.retry_of,
            workflow_name=prepared.workflow_name,
            workflow_format="api" if prepared.workflow.editor_file is None else "editor",
            workflow_shape=prepared.workflow.shape,
            created_at=created_at,
        )
        return record.initial(), uploads

    def _input_files(
        self, prepared: PreparedJob, job_id: str, shared: Mapping[LocalFile, InputFile]
    ) -> tuple[list[InputFile], dict[InputFile, Source]]:
        """Return the input files of the record with their keys, and those of them that have to be uploaded."""
        found: list[InputFile] = []
        uploads: dict[InputFile, Source] = {}
        for position, given in enumerate((*prepared.pictures, *prepared.files)):
            if isinstance(given, HeldFile):
                found.append(given.file)
            elif given in shared:
                found.append(shared[given])
            else:
                found.append(given.stored(keys.input_file(self._tenant, job_id, position)))
                uploads[found[-1]] = given.path
        return found, uploads

    async def hold_files(self, prepared: PreparedJob, job_id: str) -> None:
        """Register the job as a user of its uploads and assets, which keeps them until the job ends."""
        held = {(file.kind, file.id) for file in prepared.files if isinstance(file, HeldFile)}
        use = {"upload": self._stores.uploads.use, "asset": self._stores.assets.use}
        await map_bounded(held, lambda one: use[one[0]](self._tenant, one[1], job_id))

    def extras(self, prepared: PreparedJob, record: JobRecord) -> dict[str, bytes]:
        """Return the objects to store next to the record, by key: long inputs, an editor's file, secrets."""
        # Secrets have objects of their own because the record is rendered in API responses.
        brought, options = {}, prepared.options
        if prepared.values is not None:
            brought[keys.values(record.tenant, record.job_id)] = prepared.values
        if prepared.workflow.editor_file is not None:
            brought[keys.editor_file(record.tenant, record.job_id)] = prepared.workflow.editor_file
        if options.webhook_secret is not None:
            brought[keys.webhook_secret(record.tenant, record.job_id)] = options.webhook_secret.encode()
        if options.extra_data is not None:
            partner_key = options.extra_data.api_key_comfy_org.get_secret_value()
            sealed = self._stores.partner_keys.sealed(record.tenant, record.job_id, partner_key)
            brought[keys.partner_key(record.tenant, record.job_id)] = sealed
        return brought

    async def request_workers(self, pool: str, jobs: int = 1) -> None:
        """Request workers for so many new jobs of the pool. A failure is logged and not raised."""
        try:
            async with asyncio.timeout(self._config.spawn_wait_s):
                await self._tickets.request(pool, jobs)
        except Exception:  # the job is committed and queued: a running worker claims it, or the reaper starts one
            logger.exception("no worker could be started")

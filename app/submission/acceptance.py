"""Storing what was checked: the acceptance of one job. A job is accepted by the commit of its job.json, and not before.

identify (Idempotency-Key) → quotas → job.json, announced first → spawn
"""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from app.config import ApiConfig
from app.services import Services
from app.submission.media import LocalMedium, PreparedMedium
from app.submission.preparation import PreparedJob
from app.submission.quotas import Quotas
from storage import keys
from storage.errors import JobGone, JobNotFound, PreconditionFailed, StorageUnavailable
from storage.jobs.record import DAY_S, JobRecord
from storage.jobs.store import LocalFile, StoredJob
from storage.jobs.values import Medium

logger = logging.getLogger(__name__)

DEFAULT_ESTIMATE_S = 30


@dataclass(frozen=True, slots=True)
class Accepted:
    """`is_replay`: an earlier request with this Idempotency-Key made the job."""

    stored: StoredJob
    estimated_s: int
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """Which request this is: its Idempotency-Key, a hash of its body, the trace that it belongs to."""

    idempotency_key: str | None
    fingerprint: str
    traceparent: str | None = None


class Acceptance:
    def __init__(self, services: Services, config: ApiConfig, tenant: str) -> None:
        self._launcher, self._stores = services.launcher, services.stores
        self._config = config
        self._tenant = tenant
        self._quotas = Quotas(services, config, tenant)

    async def replayed(self, identity: Identity) -> Accepted | None:
        """What an earlier request with the same key made. To be asked before the request is looked into any further:
        what it refers to may be gone by now."""
        job_id = await self.known("jobs", identity)
        return None if job_id is None else await self._replay(job_id)

    async def job(self, prepared: PreparedJob, identity: Identity) -> Accepted:
        """The job, or the one that an earlier request with the same key made."""
        job_id, is_first = await self.identify("jobs", identity)
        if not is_first and (replayed := await self._replay(job_id)) is not None:
            return replayed
        async with self._quotas.admitted({job_id: prepared}):
            try:
                stored = await self._create(prepared, job_id, identity)
            except PreconditionFailed:  # the same request, sent twice at once: the other one was quicker
                return await self._accepted(await self._stores.jobs.read(self._tenant, job_id), is_replay=True)
        await self.spawn(stored.record)
        return await self._accepted(stored, is_replay=False)

    async def _replay(self, job_id: str) -> Accepted | None:
        """None for one whose maker crashed in between, or is not ready: it is made again, under the same id."""
        try:
            return await self._accepted(await self._stores.jobs.read(self._tenant, job_id), is_replay=True)
        except JobGone:
            raise
        except JobNotFound:
            return None

    async def _accepted(self, stored: StoredJob, *, is_replay: bool) -> Accepted:
        return Accepted(stored, await self._estimate_s(stored.record) or DEFAULT_ESTIMATE_S, is_replay)

    async def _estimate_s(self, record: JobRecord) -> int | None:
        """None where it is not known. The job is accepted by now, so a bucket that fails here must not refuse it."""
        try:
            return await self._stores.runtimes.estimate(self._tenant, record.workflow_shape)
        except StorageUnavailable:
            return None

    async def _create(self, prepared: PreparedJob, job_id: str, identity: Identity) -> StoredJob:
        record, files = self.draft(prepared, job_id, self._stores.clock.now(), identity)
        await self.hold_uploads(prepared, job_id)
        return await self._stores.jobs.create(
            record, workflow=prepared.workflow.document, files=files, beside=self.beside(prepared, record)
        )

    async def known(self, scope: str, identity: Identity) -> str | None:
        """The id that an earlier request with this key has claimed."""
        if identity.idempotency_key is None:
            return None
        return await self._stores.idempotency.known(self._tenant, scope, identity.idempotency_key, identity.fingerprint)

    async def identify(self, scope: str, identity: Identity) -> tuple[str, bool]:
        """The id of what is to be made, and whether no earlier request claimed it."""
        if identity.idempotency_key is None:
            return str(uuid.uuid4()), True
        claim = await self._stores.idempotency.claim(
            self._tenant, scope, identity.idempotency_key, identity.fingerprint
        )
        return claim.id, claim.is_first

    def draft(
        self,
        prepared: PreparedJob,
        job_id: str,
        created_at: datetime,
        identity: Identity,
        *,
        batch_id: str | None = None,
        shared: Mapping[PreparedMedium, Medium] | None = None,
    ) -> tuple[JobRecord, list[LocalFile]]:
        """The record, and the files to be stored with it; `shared` media are stored elsewhere already."""
        media, files = self._media(prepared, job_id, shared or {})
        options, config = prepared.options, self._config
        record = JobRecord(
            tenant=self._tenant,
            job_id=job_id,
            batch_id=batch_id,
            pool=prepared.pool,
            priority=options.priority,
            timeout_s=options.timeout_s or config.default_timeout_s,
            queue_timeout_s=options.queue_timeout_s or config.queue_timeout_s,
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
            media=tuple(media),
            workflow_shape=prepared.workflow.shape,
            created_at=created_at,
        )
        return record.born(), files

    def _media(
        self, prepared: PreparedJob, job_id: str, shared: Mapping[PreparedMedium, Medium]
    ) -> tuple[list[Medium], list[LocalFile]]:
        """Where each will lie, and which are still to be stored there."""
        media: list[Medium] = []
        files: list[LocalFile] = []
        for position, given in enumerate((*prepared.pictures, *prepared.media)):
            if given in shared:
                media.append(shared[given])
            elif isinstance(given, LocalMedium):
                key = keys.input_medium(self._tenant, job_id, position)
                media.append(stored_medium(given, key))
                files.append(LocalFile(key, given.path, given.content_type))
            else:
                media.append(given.medium)
        return media, files

    async def hold_uploads(self, prepared: PreparedJob, job_id: str) -> None:
        """Uploads stay until the job that uses them is over."""
        for medium in prepared.media:
            if not isinstance(medium, LocalMedium):
                await self._stores.uploads.use(self._tenant, medium.upload_id, job_id)

    def beside(self, prepared: PreparedJob, record: JobRecord) -> dict[str, bytes]:
        """What the job brought that does not belong into its record: long inputs, and secrets, for it is shown."""
        brought, options = {}, prepared.options
        if prepared.values is not None:
            brought[keys.values(record.tenant, record.job_id)] = prepared.values
        if options.webhook_secret is not None:
            brought[keys.webhook_secret(record.tenant, record.job_id)] = options.webhook_secret.encode()
        if options.extra_data is not None:
            partner_key = options.extra_data.api_key_comfy_org.get_secret_value()
            sealed = self._stores.partner_keys.sealed(record.tenant, record.job_id, partner_key)
            brought[keys.partner_key(record.tenant, record.job_id)] = sealed
        return brought

    async def spawn(self, record: JobRecord) -> None:
        try:
            async with asyncio.timeout(self._config.spawn_wait_s):
                await self._launcher.spawn(record.pool)
        except Exception:  # the job is safe: whoever looks at the queue next runs it
            logger.exception("no worker could be started")


def stored_medium(local: LocalMedium, key: str) -> Medium:
    return Medium(name=local.name, key=key, size_bytes=local.size_bytes, content_type=local.content_type)

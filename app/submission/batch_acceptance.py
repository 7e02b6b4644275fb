"""Accepts a batch: writes every job unpublished, then publishes all of them with one write. See `storage.batches`."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.config import ApiConfig
from app.services import Services
from app.submission.acceptance import Acceptance, Identity, stored_medium
from app.submission.batch_preparation import PreparedBatch
from app.submission.media import LocalMedium, PreparedMedium
from app.submission.preparation import PreparedJob
from app.submission.quotas import Quotas
from storage import keys
from storage.batches import BatchRecord, StoredBatch, member_id
from storage.concurrency import map_bounded
from storage.errors import BatchGone, BatchNotFound, PreconditionFailed
from storage.jobs.models import Medium
from storage.jobs.record import JobRecord


@dataclass(frozen=True, slots=True)
class AcceptedBatch:
    """An accepted batch. `is_replay` marks a batch that an earlier request with the same Idempotency-Key created."""

    stored: StoredBatch
    is_replay: bool = False


class BatchAcceptance:
    """Accepts the batch of one request, all of its jobs or none."""

    def __init__(self, services: Services, config: ApiConfig, tenant: str) -> None:
        self._stores = services.stores
        self._config = config
        self._tenant = tenant
        self._acceptance = Acceptance(services, config, tenant)
        self._quotas = Quotas(services, config, tenant)

    async def replayed(self, identity: Identity) -> AcceptedBatch | None:
        """Return the batch that an earlier request with the same Idempotency-Key created, or None."""
        batch_id = await self._acceptance.known("batches", identity)
        known = None if batch_id is None else await self._known(batch_id)
        return None if known is None else AcceptedBatch(known, is_replay=True)

    async def batch(self, prepared: PreparedBatch, identity: Identity) -> AcceptedBatch:
        """Accept all jobs of the batch, or none. Raises `Problem` where a quota is exceeded."""
        batch_id, is_first = await self._acceptance.identify("batches", identity)
        if not is_first and (known := await self._known(batch_id)) is not None:
            return AcceptedBatch(known, is_replay=True)
        # Job ids derive from the batch id: a retry after a crash finds the jobs that were written already.
        job_ids = [member_id(batch_id, position) for position in range(len(prepared.jobs))]
        jobs = dict(zip(job_ids, prepared.jobs, strict=True))
        async with self._quotas.admitted(jobs, prepared.webhook_url):
            return await self._make(prepared, identity, batch_id, job_ids)

    async def _make(
        self, prepared: PreparedBatch, identity: Identity, batch_id: str, job_ids: Sequence[str]
    ) -> AcceptedBatch:
        draft = await self._stores.batches.draft(
            BatchRecord(
                tenant=self._tenant,
                batch_id=batch_id,
                job_ids=tuple(job_ids),
                warned=tuple(position for position, job in enumerate(prepared.jobs) if job.warnings),
                metadata=prepared.metadata,
                created_at=self._stores.clock.now(),
                retain_s=self._config.retain_s,
                webhook_url=prepared.webhook_url,
                has_webhook_secret=prepared.webhook_secret is not None,
            )
        )
        if draft.record.is_open:  # a concurrent request with the same key accepted the batch
            return AcceptedBatch(draft, is_replay=True)
        stored_media = await self._store_shared(batch_id, prepared.shared)
        if prepared.webhook_secret is not None:
            key = keys.batch_webhook_secret(self._tenant, batch_id)
            await self._stores.objects.put(key, prepared.webhook_secret.encode())
        # Jobs are invisible to workers until `accept` publishes them, so a crash here leaves no partial batch.
        numbered = list(enumerate(prepared.jobs))
        records = await map_bounded(numbered, lambda item: self._write(draft.record, *item, identity, stored_media))
        opened = await self._stores.batches.accept(draft, records)
        await map_bounded(records, self._acceptance.spawn)
        return AcceptedBatch(opened)

    async def _known(self, batch_id: str) -> StoredBatch | None:
        """Return the batch if it was accepted. Raises `BatchGone`."""
        try:
            return await self._stores.batches.read(self._tenant, batch_id)
        except BatchGone:
            raise
        except BatchNotFound:  # the request that claimed the id crashed, was refused, or has not committed yet
            return None

    async def _store_shared(self, batch_id: str, shared: Sequence[PreparedMedium]) -> dict[PreparedMedium, Medium]:
        """Store the media that every job uses once, under the batch's own keys."""
        stored: dict[PreparedMedium, Medium] = {}
        for position, given in enumerate(shared):
            if isinstance(given, LocalMedium):
                key = keys.batch_medium(self._tenant, batch_id, position)
                await self._stores.objects.upload_file(key, given.path, content_type=given.content_type)
                stored[given] = stored_medium(given, key)
        return stored

    async def _write(
        self,
        batch: BatchRecord,
        position: int,
        prepared: PreparedJob,
        identity: Identity,
        shared: dict[PreparedMedium, Medium],
    ) -> JobRecord:
        """Write one job without publishing it. Returns the stored record, which a retry reads back."""
        job_id = batch.job_ids[position]
        record, files = self._acceptance.draft(
            prepared, job_id, batch.created_at, identity, batch_id=batch.batch_id, shared=shared
        )
        await self._acceptance.hold_uploads(prepared, job_id)
        try:
            stored = await self._stores.jobs.create_unpublished(
                record,
                workflow=prepared.workflow.document,
                files=files,
                extras=self._acceptance.extras(prepared, record),
            )
        except PreconditionFailed:  # an earlier attempt of this request wrote the job
            stored = await self._stores.jobs.read(self._tenant, job_id)
        return stored.record

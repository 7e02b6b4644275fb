"""Builds the stores, for every process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from infra.compose.values import retain_s, webhook_secrets
from infra.settings import Settings
from storage.access.byte_ledger import ByteLedger
from storage.access.key_store import ApiKeyStore
from storage.access.partner_keys import PartnerKeyStore
from storage.assets import AssetStore
from storage.batch_pages import BatchPages
from storage.batches import BatchStore
from storage.bucket.objects import ObjectStore
from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.clock import Clock, SystemClock
from storage.jobs.active_jobs import ActiveJobStore
from storage.jobs.idempotency import IdempotencyStore
from storage.jobs.live import BucketLiveBoard
from storage.jobs.logs import LogStore
from storage.jobs.queue import JobQueue
from storage.jobs.store import JobStore
from storage.jobs.uploads import UploadStore
from storage.outbox import Outbox
from storage.pools.engine_info import EngineInfoStore
from storage.pools.engine_starts import EngineStartStore, StartPolicy
from storage.pools.engine_use import EngineUseStore
from storage.pools.runtimes import RuntimeStore
from storage.pools.worker_facts import AttentionStore, WorkerFactsStore
from storage.removal import JobRemover
from storage.signal import Signal
from storage.stores import Stores
from storage.webhooks.deliveries import DeliveryStore
from storage.webhooks.endpoints import EndpointStore


def s3_config(settings: Settings) -> S3Config:
    return S3Config(
        bucket=settings.bucket,
        endpoint_url=settings.s3_endpoint,
        public_endpoint_url=settings.s3_public_endpoint,
        region=settings.s3_region,
        access_key=settings.s3_access_key.get_secret_value() if settings.s3_access_key else None,
        secret_key=settings.s3_secret_key.get_secret_value() if settings.s3_secret_key else None,
        prefix=settings.s3_prefix,
    )


def api_s3_config(settings: Settings) -> S3Config:
    """Return the configuration of the API's S3 client: its timeouts are half of a request's budget."""
    # One retry then fits into the budget, and a bucket that hangs does not hold a thread of the API for long.
    config, half_s = s3_config(settings), settings.bucket_timeout_s / 2
    return replace(
        config,
        connect_timeout_s=min(config.connect_timeout_s, half_s),
        read_timeout_s=min(config.read_timeout_s, half_s),
        # A tenant's long copies leave a place for the files of others.
        transfers_of_tenant=config.transfer_threads - 1,
    )


@asynccontextmanager
async def open_objects(settings: Settings, s3: S3Config | None = None) -> AsyncIterator[ObjectStore]:
    """Open the bucket. `s3` replaces the configuration that `s3_config` derives from the settings."""
    objects = S3ObjectStore(s3 or s3_config(settings))
    try:
        yield objects
    finally:
        await objects.close()


@asynccontextmanager
async def open_stores(settings: Settings, signal: Signal, s3: S3Config | None = None) -> AsyncIterator[Stores]:
    async with open_objects(settings, s3) as objects:
        stores = make_stores(settings, objects, signal)
        try:
            yield stores
        finally:
            await stores.jobs.settled()  # its background deletions still need the connections


def make_stores(settings: Settings, objects: ObjectStore, signal: Signal, clock: Clock | None = None) -> Stores:
    clock = clock or SystemClock()
    jobs = JobStore(objects, clock, signal)
    deliveries = DeliveryStore(objects, clock)
    remover = JobRemover(jobs, deliveries, objects, clock)
    uploads = UploadStore(jobs, objects, clock, expires_s=settings.upload_expires_s, retain_s=retain_s(settings))
    batches = BatchStore(jobs, remover, deliveries, objects, clock)
    return Stores(
        clock=clock,
        objects=objects,
        signal=signal,
        jobs=jobs,
        remover=remover,
        batches=batches,
        batch_pages=BatchPages(batches, objects, clock),
        outbox=Outbox(jobs, batches, deliveries, objects, clock),
        deliveries=deliveries,
        endpoints=EndpointStore(objects, clock, probe=timedelta(seconds=2 * settings.webhook_timeout_s)),
        logs=LogStore(objects),
        live=BucketLiveBoard(objects, signal),
        queue=JobQueue(jobs, objects, clock, lease_s=settings.lease_s),
        uploads=uploads,
        assets=AssetStore(jobs, uploads, objects, clock, retain_s=retain_s(settings)),
        idempotency=IdempotencyStore(objects, clock),
        runtimes=RuntimeStore(objects, clock),
        engine_info=EngineInfoStore(objects, clock),
        engine_starts=EngineStartStore(objects, clock, start_policy(settings)),
        engine_use=EngineUseStore(objects, clock),
        attention=AttentionStore(objects),
        worker_facts=WorkerFactsStore(objects),
        api_keys=ApiKeyStore(objects, clock, fixed=settings.api_keys),
        active_jobs=ActiveJobStore(jobs, objects, clock),
        byte_ledger=ByteLedger(objects, clock),
        partner_keys=PartnerKeyStore(objects, webhook_secrets(settings)),
    )


def start_policy(settings: Settings) -> StartPolicy:
    return StartPolicy(
        settings.max_failed_starts,
        pause=timedelta(seconds=settings.failed_start_pause_s),
        lease=timedelta(seconds=settings.lease_s),
    )

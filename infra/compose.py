"""How the stores and the API are put together, for every runtime. Nothing is decided here, only wired."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from app.config import ApiConfig
from app.services import Services
from infra.settings import Settings
from storage.access.byte_ledger import ByteLedger
from storage.access.key_store import ApiKeyStore
from storage.access.partner_keys import PartnerKeyStore
from storage.batches import BatchStore
from storage.bucket.objects import ObjectStore
from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.clock import Clock, SystemClock
from storage.jobs.idempotency import IdempotencyStore
from storage.jobs.loads import LoadStore
from storage.jobs.logs import LogStore
from storage.jobs.queue import JobQueue
from storage.jobs.record import DAY_S
from storage.jobs.store import JobStore
from storage.jobs.uploads import UploadStore
from storage.launcher import Launcher
from storage.outbox import Outbox
from storage.published.engine_info import EngineInfoStore
from storage.published.runtimes import RuntimeStore
from storage.published.worker_facts import WorkerFactsStore
from storage.removal import JobRemover
from storage.signal import Signal
from storage.stores import Stores
from storage.untrusted.media_check import MediaLimits
from storage.untrusted.remote import RemoteFetcher
from storage.webhooks.deliveries import DeliveryStore
from storage.webhooks.endpoints import EndpointStore
from storage.webhooks.signing import public_key
from workflows.library import library
from workflows.policy import NodePolicy


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


@asynccontextmanager
async def open_objects(settings: Settings) -> AsyncIterator[ObjectStore]:
    objects = S3ObjectStore(s3_config(settings))
    try:
        yield objects
    finally:
        await objects.close()


@asynccontextmanager
async def open_stores(settings: Settings, signal: Signal) -> AsyncIterator[Stores]:
    async with open_objects(settings) as objects:
        stores = make_stores(settings, objects, signal)
        try:
            yield stores
        finally:
            await stores.jobs.settled()


def make_stores(settings: Settings, objects: ObjectStore, signal: Signal, clock: Clock | None = None) -> Stores:
    clock = clock or SystemClock()
    jobs = JobStore(objects, clock, signal)
    deliveries = DeliveryStore(objects, clock)
    remover = JobRemover(jobs, deliveries, objects, clock)
    batches = BatchStore(jobs, remover, deliveries, objects, clock)
    return Stores(
        clock=clock,
        objects=objects,
        signal=signal,
        jobs=jobs,
        remover=remover,
        batches=batches,
        outbox=Outbox(jobs, batches, deliveries, objects, clock),
        deliveries=deliveries,
        endpoints=EndpointStore(objects, clock, probe=timedelta(seconds=2 * settings.webhook_timeout_s)),
        logs=LogStore(objects),
        queue=JobQueue(jobs, objects, clock, lease_s=settings.lease_s),
        uploads=UploadStore(
            jobs, objects, clock, expires_s=settings.upload_expires_s, retain_s=_seconds(settings.retain_days)
        ),
        idempotency=IdempotencyStore(objects, clock),
        runtimes=RuntimeStore(objects, clock),
        engine_info=EngineInfoStore(objects, clock),
        worker_facts=WorkerFactsStore(objects),
        api_keys=ApiKeyStore(objects, clock, fixed=settings.api_keys),
        loads=LoadStore(jobs, objects, clock),
        byte_ledger=ByteLedger(objects, clock),
        partner_keys=PartnerKeyStore(objects, webhook_secrets(settings)),
    )


def media_limits(settings: Settings) -> MediaLimits:
    return MediaLimits(
        settings.max_pixels, settings.max_animation_pixels, settings.max_video_pixels, settings.max_media_s
    )


def webhook_secrets(settings: Settings) -> tuple[str, ...]:
    """The newest first."""
    return tuple(settings.webhook_secret.get_secret_value().split()) if settings.webhook_secret else ()


def api_config(settings: Settings) -> ApiConfig:
    return ApiConfig(
        api_key=settings.api_key.get_secret_value() if settings.api_key else None,
        public_url=settings.public_url,
        max_requests_per_s=settings.max_requests_per_s,
        max_active_jobs=settings.max_active_jobs,
        max_queued_jobs=settings.max_queued_jobs,
        max_webhook_targets=settings.max_webhook_targets,
        max_upload_bytes_a_day=settings.max_upload_bytes_a_day,
        docs=settings.docs,
        metrics=settings.metrics,
        cors_origins=settings.cors_origins,
        max_request_bytes=settings.max_request_bytes,
        max_media=settings.max_media,
        max_medium_bytes=settings.max_medium_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        media_limits=media_limits(settings),
        max_nodes=settings.max_nodes,
        node_policy=NodePolicy.parse(settings.denied_nodes),
        output_expires_s=settings.output_expires_s,
        default_timeout_s=settings.default_timeout_s,
        max_timeout_s=settings.max_timeout_s,
        queue_timeout_s=settings.queue_timeout_s,
        retain_s=_seconds(settings.retain_days),
        max_batch_jobs=settings.max_batch_jobs,
        gpu_pools=tuple(settings.gpu_pools),
        webhook_public_keys=_public_keys(settings),
        signs_webhooks=settings.webhook_secret is not None or settings.webhook_signing_key is not None,
    )


def _public_keys(settings: Settings) -> tuple[str, ...]:
    key = settings.webhook_signing_key
    return () if key is None else (public_key(key.get_secret_value()),)


def _seconds(days: float) -> int:
    return round(days * DAY_S)


def api_services(settings: Settings, stores: Stores, launcher: Launcher) -> Services:
    return Services(
        stores=stores,
        launcher=launcher,
        fetcher=RemoteFetcher(max_bytes=settings.max_medium_bytes),
        workflows=library(settings.workflows_dir),
    )

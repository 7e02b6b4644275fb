"""How the product is put together from its parts, for every runtime. Nothing is decided here, only wired."""

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from app.config import ApiConfig
from app.services import Services
from app.views.events import EventRenderer
from infra.settings import Settings
from storage.access.byte_ledger import ByteLedger
from storage.access.key_store import ApiKeyStore
from storage.access.partner_keys import PartnerKeyStore
from storage.batches import BatchStore
from storage.bucket.objects import ObjectStore
from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.clock import Clock, SystemClock
from storage.hint_keys import Kind
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
from storage.untrusted.addresses import is_public_or_loopback
from storage.untrusted.media_check import MediaLimits
from storage.untrusted.remote import RemoteFetcher
from storage.webhooks.deliveries import DeliveryStore
from storage.webhooks.endpoints import EndpointStore
from storage.webhooks.post import RemotePoster, WebhookTransport
from storage.webhooks.signing import Signer, public_key
from workers.announcer import Announcer, WorkerIdentity
from workers.comfy.execution import ExecutionPolicy
from workers.comfy.host import EngineHost, EngineProcess, RunningEngine
from workers.comfy.spec import EngineFolders, EngineSpec
from workers.comfy.warm import WarmHost
from workers.loop import WorkerLoop
from workers.outputs.uploads import UploadPolicy
from workers.reporter import ReportPolicy
from workers.runner import RunnerPolicy, RunnerStores
from workers.upkeep.backlog import Backlog
from workers.upkeep.deadlines import Deadlines, Keeper
from workers.upkeep.reaper import Reaper
from workers.upkeep.recovery import Recovery
from workers.webhooks.deliverer import Deliverer, DeliveryRoom
from workers.webhooks.dispatcher import Dispatcher
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


def runner_policy(settings: Settings) -> RunnerPolicy:
    return RunnerPolicy(
        max_attempts=settings.max_attempts,
        log_interval_s=settings.log_interval_s,
        execution=ExecutionPolicy(stall_s=settings.engine_stall_s),
        uploads=UploadPolicy(
            parallel=settings.parallel_uploads,
            inline_text_bytes=settings.inline_text_bytes,
            max_outputs=settings.max_outputs,
            max_output_bytes=settings.max_output_bytes,
        ),
        media_limits=media_limits(settings),
        report=ReportPolicy(
            interval_s=settings.progress_interval_s, cancel_poll_s=settings.cancel_poll_s, lease_s=settings.lease_s
        ),
    )


def media_limits(settings: Settings) -> MediaLimits:
    return MediaLimits(
        settings.max_pixels, settings.max_animation_pixels, settings.max_video_pixels, settings.max_media_s
    )


def engine_host(settings: Settings, environment: Mapping[str, str]) -> EngineHost:
    """The engine that the setting `engine` names; `environment` is what its process may know."""
    if settings.engine.startswith(("http://", "https://")):
        return RunningEngine(settings.engine)
    return EngineProcess(engine_spec(settings, environment))


def engine_spec(settings: Settings, environment: Mapping[str, str]) -> EngineSpec:
    """How an engine of this worker's own is started."""
    folders = EngineFolders(settings.engine_dir or Path(tempfile.mkdtemp(prefix="comfyui-modal-engine-")))
    if settings.engine == "lite":
        return EngineSpec.lite(folders=folders, fault_nodes=settings.lite_fault_nodes, environment=environment)
    return EngineSpec.comfyui(
        Path(settings.engine),
        python=settings.comfyui_python,
        folders=folders,
        cpu=settings.comfyui_cpu,
        environment=environment,
        start_timeout_s=settings.engine_start_timeout_s,
        attention=settings.attention,
    )


def warm(settings: Settings, host: EngineHost) -> EngineHost:
    """The host, with the warm-up that the settings ask for."""
    if settings.warm_up is None:
        return host
    known = {name: one for name, one in library(settings.workflows_dir).items() if not one.needs_media}
    if settings.warm_up not in known:
        raise ValueError(f"warm_up: there is no workflow {settings.warm_up!r} without media, only {', '.join(known)}")
    policy = runner_policy(settings).execution
    return WarmHost(host, known[settings.warm_up].graph, policy, limit_s=settings.engine_start_timeout_s)


def worker_loop(
    settings: Settings,
    stores: Stores,
    host: EngineHost,
    on_ready: Callable[[], None] = lambda: None,
    *,
    prices: Mapping[str, float] | None = None,
) -> WorkerLoop:
    """`prices` are those of the place where this runs; those of the settings come before them."""
    identity = WorkerIdentity(
        settings.process_name, settings.pool, settings.queue_poll_s, {**(prices or {}), **settings.gpu_prices}
    )
    return WorkerLoop(
        identity,
        host,
        stores.queue,
        Announcer(identity, host, stores.engine_info, stores.worker_facts, stores.clock),
        runner_stores(stores),
        runner_policy(settings),
        on_ready,
    )


def runner_stores(stores: Stores) -> RunnerStores:
    return RunnerStores(
        stores.jobs,
        stores.objects,
        stores.partner_keys,
        stores.runtimes,
        stores.logs,
        stores.signal,
        stores.clock,
    )


def reaper(settings: Settings, stores: Stores, launcher: Launcher) -> Reaper:
    keepers: dict[Kind, Keeper] = {
        "draft": stores.remover,
        "job": stores.remover,
        "batch": stores.batches,
        "upload": stores.uploads,
        "key": stores.idempotency,
        "test": stores.deliveries,
        "endpoint": stores.endpoints,
    }
    return Reaper(
        Recovery(stores.jobs, stores.logs, stores.objects, stores.clock, max_attempts=settings.max_attempts),
        Backlog(stores.jobs, stores.objects, launcher, stores.clock, lease=timedelta(seconds=settings.lease_s)),
        Deadlines(keepers, stores.objects, stores.clock),
    )


def dispatcher(settings: Settings, stores: Stores, transport: WebhookTransport) -> Dispatcher:
    room = DeliveryRoom(
        stores.outbox,
        stores.deliveries,
        stores.endpoints,
        stores.objects,
        stores.clock,
        lease=timedelta(seconds=15 + 3 * settings.webhook_timeout_s),
        retry_scale=settings.webhook_retry_scale,
        origin=settings.webhook_origin,
    )
    renderer = EventRenderer(stores.objects, api_config(settings))
    deliverer = Deliverer(room, transport=transport, renderer=renderer, signer=signer(settings))
    return Dispatcher(stores.outbox, deliverer, stores.signal, poll_s=settings.deliver_poll_s)


def webhook_secrets(settings: Settings) -> tuple[str, ...]:
    """The newest first."""
    return tuple(settings.webhook_secret.get_secret_value().split()) if settings.webhook_secret else ()


def signer(settings: Settings) -> Signer:
    key = settings.webhook_signing_key
    return Signer(webhook_secrets(settings), None if key is None else key.get_secret_value())


def webhook_transport(settings: Settings) -> RemotePoster:
    """Public addresses alone, on the web's ports; where `up` runs, also this machine's own, on any port."""
    if not settings.webhook_loopback:
        return RemotePoster(timeout_s=settings.webhook_timeout_s)
    return RemotePoster(check=is_public_or_loopback, any_port=True, timeout_s=settings.webhook_timeout_s)


def engine_environment() -> dict[str, str]:
    """What ComfyUI may know of this process's environment: no setting and no credential of ours."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _ENGINE_VARIABLES or name.startswith(("CUDA_", "NVIDIA_", "TORCH", "PYTORCH_", "LC_"))
    }


_ENGINE_VARIABLES = frozenset(
    {
        *("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "XDG_CACHE_HOME"),
        *("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"),  # not HF_TOKEN
        *("HF_HUB_ENABLE_HF_TRANSFER", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "HF_XET_CACHE"),
    }
)


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

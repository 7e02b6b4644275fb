"""All stores, as a composition root opens them."""

from dataclasses import dataclass

from storage.access.byte_ledger import ByteLedger
from storage.access.key_store import ApiKeyStore
from storage.access.partner_keys import PartnerKeyStore
from storage.assets import AssetStore
from storage.batch_pages import BatchPages
from storage.batches import BatchStore
from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.jobs.active_jobs import ActiveJobStore
from storage.jobs.idempotency import IdempotencyStore
from storage.jobs.live import LiveBoard
from storage.jobs.logs import LogStore
from storage.jobs.queue import JobQueue
from storage.jobs.store import JobStore
from storage.jobs.uploads import UploadStore
from storage.outbox import Outbox
from storage.pools.engine_info import EngineInfoStore
from storage.pools.engine_starts import EngineStartStore
from storage.pools.engine_use import EngineUseStore
from storage.pools.runtimes import RuntimeStore
from storage.pools.worker_facts import AttentionStore, WorkerFactsStore
from storage.removal import JobRemover
from storage.signal import Signal
from storage.webhooks.deliveries import DeliveryStore
from storage.webhooks.endpoints import EndpointStore


@dataclass(frozen=True, slots=True)
class Stores:
    """All stores of one deployment."""

    clock: Clock
    objects: ObjectStore
    signal: Signal
    jobs: JobStore
    remover: JobRemover
    batches: BatchStore
    batch_pages: BatchPages
    outbox: Outbox
    deliveries: DeliveryStore
    endpoints: EndpointStore
    logs: LogStore
    live: LiveBoard
    queue: JobQueue
    uploads: UploadStore
    assets: AssetStore
    idempotency: IdempotencyStore
    runtimes: RuntimeStore
    engine_info: EngineInfoStore
    engine_starts: EngineStartStore
    engine_use: EngineUseStore
    attention: AttentionStore
    worker_facts: WorkerFactsStore
    api_keys: ApiKeyStore
    active_jobs: ActiveJobStore
    byte_ledger: ByteLedger
    partner_keys: PartnerKeyStore

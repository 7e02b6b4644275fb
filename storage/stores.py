"""All stores of the room, as a composition root opens them."""

from dataclasses import dataclass

from storage.access.byte_ledger import ByteLedger
from storage.access.key_store import ApiKeyStore
from storage.access.partner_keys import PartnerKeyStore
from storage.batches import BatchStore
from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.jobs.idempotency import IdempotencyStore
from storage.jobs.loads import LoadStore
from storage.jobs.logs import LogStore
from storage.jobs.queue import JobQueue
from storage.jobs.store import JobStore
from storage.jobs.uploads import UploadStore
from storage.outbox import Outbox
from storage.published.attention import AttentionStore
from storage.published.engine_info import EngineInfoStore
from storage.published.engine_starts import EngineStartStore
from storage.published.runtimes import RuntimeStore
from storage.published.worker_facts import WorkerFactsStore
from storage.removal import JobRemover
from storage.signal import Signal
from storage.webhooks.deliveries import DeliveryStore
from storage.webhooks.endpoints import EndpointStore


@dataclass(frozen=True, slots=True)
class Stores:
    """The storage room, opened."""

    clock: Clock
    objects: ObjectStore
    signal: Signal
    jobs: JobStore
    remover: JobRemover
    batches: BatchStore
    outbox: Outbox
    deliveries: DeliveryStore
    endpoints: EndpointStore
    logs: LogStore
    queue: JobQueue
    uploads: UploadStore
    idempotency: IdempotencyStore
    runtimes: RuntimeStore
    engine_info: EngineInfoStore
    engine_starts: EngineStartStore
    attention: AttentionStore
    worker_facts: WorkerFactsStore
    api_keys: ApiKeyStore
    loads: LoadStore
    byte_ledger: ByteLedger
    partner_keys: PartnerKeyStore

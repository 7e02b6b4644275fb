"""What the HTTP face works with. Put together by a composition root, never by a route."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from storage.access.byte_ledger import ByteLedger
from storage.access.key_store import ApiKeyStore
from storage.access.partner_keys import PartnerKeyStore
from storage.batches import BatchStore
from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.jobs.idempotency import IdempotencyStore
from storage.jobs.loads import LoadStore
from storage.jobs.logs import LogStore
from storage.jobs.store import JobStore
from storage.jobs.uploads import UploadStore
from storage.launcher import Launcher
from storage.published.engine_info import EngineInfoStore
from storage.published.runtimes import RuntimeStore
from storage.published.worker_facts import WorkerFactsStore
from storage.removal import JobRemover
from storage.signal import Signal
from storage.untrusted.remote import Fetched
from storage.webhooks.deliveries import DeliveryStore
from storage.webhooks.endpoints import EndpointStore
from workflows.manifest import NamedWorkflow


class Fetcher(Protocol):
    """Brings the bytes behind a URL to a file; see `storage.untrusted.remote`."""

    async def fetch(self, url: str, path: Path) -> Fetched: ...


@dataclass(frozen=True, slots=True)
class Services:
    jobs: JobStore
    objects: ObjectStore
    batches: BatchStore
    deliveries: DeliveryStore
    endpoints: EndpointStore
    remover: JobRemover
    logs: LogStore
    uploads: UploadStore
    idempotency: IdempotencyStore
    runtimes: RuntimeStore
    engine_info: EngineInfoStore
    worker_facts: WorkerFactsStore
    launcher: Launcher
    signal: Signal
    clock: Clock
    api_keys: ApiKeyStore
    loads: LoadStore
    byte_ledger: ByteLedger
    partner_keys: PartnerKeyStore
    fetcher: Fetcher
    workflows: Mapping[str, NamedWorkflow] = field(default_factory=dict)
    """Those that may be called by name."""

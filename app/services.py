"""What the HTTP face works with. Put together by a composition root, never by a route."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from storage.access import ApiKeyStore
from storage.batches import BatchStore
from storage.byte_ledger import ByteLedger
from storage.clock import Clock
from storage.deliveries import DeliveryStore
from storage.endpoints import EndpointStore
from storage.engine_info import EngineInfoStore
from storage.idempotency import IdempotencyStore
from storage.jobs import JobStore
from storage.launcher import Launcher
from storage.loads import LoadStore
from storage.logs import LogStore
from storage.objects import ObjectStore
from storage.partner_keys import PartnerKeyStore
from storage.remote import Fetched
from storage.removal import JobRemover
from storage.runtimes import RuntimeStore
from storage.signal import Signal
from storage.uploads import UploadStore
from storage.worker_facts import WorkerFactsStore
from workflows.manifest import NamedWorkflow


class Fetcher(Protocol):
    """Brings the bytes behind a URL to a file; see `storage.remote`."""

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

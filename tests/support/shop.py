"""The stores, a queue and a reaper on one clock that a test sets."""

from datetime import timedelta

from infra.compose.reaper import reaper
from infra.compose.stores import make_stores
from infra.settings import Settings
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.jobs.record import JobRecord
from storage.jobs.store import StoredJob
from storage.launcher import Launcher, MemoryLauncher
from storage.signal import MemorySignal
from tests.support.records import a_job

LEASE_S = 60
MAX_ATTEMPTS = 3


class Shop:
    """Stores with a queue and a reaper; the launcher is in memory unless another is given."""

    def __init__(self, objects: ObjectStore, clock: ManualClock, launcher: Launcher | None = None) -> None:
        self.objects = objects
        self.clock = clock
        self.launcher = MemoryLauncher()
        settings = Settings(bucket="tests", lease_s=LEASE_S, max_attempts=MAX_ATTEMPTS)
        self.stores = make_stores(settings, objects, MemorySignal(), clock)
        self.jobs, self.queue = self.stores.jobs, self.stores.queue
        self.reaper = reaper(settings, self.stores, launcher or self.launcher)

    def pass_time(self, seconds: float = 0, **span: float) -> None:
        self.clock.set(self.clock.now() + timedelta(seconds=seconds, **span))

    async def queued(self, **fields: object) -> JobRecord:
        record = a_job(**{"created_at": self.clock.now(), "timeout_s": 3600, **fields})
        created = await self.jobs.create(record, workflow=b"{}")
        await self.jobs.settled()
        return created.record

    async def claimed(self, **fields: object) -> JobRecord:
        """Return a job that a worker has just claimed."""
        await self.queued(**fields)
        return await self.claim()

    async def claim(self) -> JobRecord:
        stored = await self.queue.claim("default", "w")
        await self.jobs.settled()
        assert stored is not None
        return stored.record

    async def completed(self, **fields: object) -> StoredJob:
        """Return a job that has just completed."""
        record = await self.claimed(**fields)
        now = self.clock.now()
        completed = await self.jobs.evolve(
            record.tenant, record.job_id, lambda r: r.complete(attempt=r.attempt, now=now, outputs=())
        )
        await self.jobs.settled()
        return completed

    async def read(self, record: JobRecord) -> JobRecord:
        return (await self.jobs.read(record.tenant, record.job_id)).record

    async def keys(self, prefix: str = "") -> tuple[str, ...]:
        await self.jobs.settled()
        return (await self.objects.list(prefix)).keys

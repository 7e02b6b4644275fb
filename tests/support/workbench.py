"""A worker over the in-memory store and a lite engine, with access to its parts."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infra.compose.stores import make_stores
from infra.settings import Settings
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import Clock, SystemClock
from storage.jobs.models import InputFile
from storage.jobs.record import JobRecord
from storage.jobs.store import JobStore
from storage.keys import DEFAULT_POOL
from storage.signal import MemorySignal
from storage.stores import Stores
from tests.support.environment import MEASURED
from tests.support.records import a_job
from workers.attempt import AttemptPolicy
from workers.comfy.execution import ExecutionPolicy
from workers.comfy.process import EngineProcess
from workers.comfy.spec import EngineFolders, EngineSpec
from workers.lookahead import OverlapPolicy
from workers.loop import WorkerLoop
from workers.publisher import WorkerIdentity
from workers.reporter import ReportPolicy

ENGINE_ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | MEASURED


@dataclass(frozen=True, slots=True)
class Bench:
    """A worker that serves no job by itself."""

    stores: Stores
    signal: MemorySignal
    worker: WorkerLoop
    host: EngineProcess

    @property
    def objects(self) -> ObjectStore:
        return self.stores.objects

    @property
    def jobs(self) -> JobStore:
        return self.stores.jobs

    async def submit(self, graph: dict[str, Any], **fields: Any) -> JobRecord:
        record = a_job(created_at=SystemClock().now(), **fields)
        return (await self.jobs.create(record, workflow=json.dumps(graph).encode())).record

    async def run(self, graph: dict[str, Any], **fields: Any) -> JobRecord:
        """Submit a job and run it as the worker."""
        await self.submit(graph, **fields)
        record = await self.serve_one()
        assert record is not None
        return record

    async def serve_one(self) -> JobRecord | None:
        """Run the best queued job to its end and return its record; None if there is none."""
        return await serve_one(self.worker, self.stores)

    async def until(self, job_id: str, wanted: Callable[[JobRecord], object]) -> JobRecord:
        """Poll the job until `wanted` holds."""
        async with asyncio.timeout(20):
            while True:
                record = (await self.jobs.read("default", job_id)).record
                if wanted(record):
                    return record
                await asyncio.sleep(0.05)

    async def input_file(self, name: str, body: bytes) -> InputFile:
        await self.objects.put(f"media/{name}", body, content_type="image/png")
        return InputFile(name=name, key=f"media/{name}", size_bytes=len(body), content_type="image/png")


@asynccontextmanager
async def workbench(
    folder: Path,
    objects: ObjectStore | None = None,
    policy: AttemptPolicy | None = None,
    clock: Clock | None = None,
    process: Callable[[EngineSpec], EngineProcess] = EngineProcess,
    overlap: OverlapPolicy | None = None,
) -> AsyncIterator[Bench]:
    clock, signal = clock or SystemClock(), MemorySignal()
    store = objects or MemoryObjectStore(clock)
    stores = make_stores(Settings(bucket="tests"), store, signal, clock)
    spec = EngineSpec.lite(folders=EngineFolders(folder), fault_nodes=True, environment=ENGINE_ENVIRONMENT)
    host = process(spec)
    identity = WorkerIdentity("w1", "default", queue_poll_s=0.2)
    worker = WorkerLoop(identity, host, stores, policy or quick_policy(), overlap=overlap)
    await worker.start()
    try:
        yield Bench(stores, signal, worker, host)
    finally:
        await worker.stop()


async def serve_one(worker: WorkerLoop, stores: Stores) -> JobRecord | None:
    """Run a worker's best queued job to its end and return its record; None if there is none."""
    best = await stores.queue.peek(DEFAULT_POOL)
    await serve_once(worker)
    return None if best is None else (await stores.jobs.read(best.tenant, best.job_id)).record


async def serve_once(worker: WorkerLoop) -> int:
    """Run at most one job, as a ticket for a single one does, and return the number of jobs."""
    claims = iter([True])

    async def goes_on() -> bool:
        return next(claims, False)

    return await worker.serve_queue(goes_on, looks_ahead=False)


def quick_policy(*, max_attempts: int = 1, **report: Any) -> AttemptPolicy:
    """Return a policy with short times; a fault ends the job at once unless more attempts are given."""
    return AttemptPolicy(
        max_attempts=max_attempts,
        report=replace(ReportPolicy(interval_s=0.2, cancel_poll_s=0.5), **report),
        execution=ExecutionPolicy(interrupt_grace_s=2.0, broken_s=1.0),
    )

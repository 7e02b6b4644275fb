"""The number of sequential bucket requests that a job waits for; requests sent at the same time count once.

The API's acceptance, a worker and a long poll run in virtual time on a bucket that takes 25 ms per request, with an
engine that measures its own time. The remaining time divided by 25 ms is the number of rounds.
"""

import asyncio
import base64
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from app.submission.acceptance import Acceptance, Identity
from app.submission.preparation import PreparedJob, PreparedWorkflow
from app.submission.request import JobOptions
from app.watch import JobWatch
from infra.compose.api import api_services
from infra.compose.stores import make_stores
from infra.compose.worker import worker_loop
from infra.settings import Settings
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import KeyPage, StoredObject
from storage.launcher import NoLauncher
from storage.signal import MemorySignal
from storage.stores import Stores
from tests.simulation.engine import GRAPH, SimulatedEngine, SimulatedHost
from tests.simulation.faults import NONE, Faults
from tests.simulation.virtual_time import VirtualClock, run_virtually
from workers.comfy.engine import Prompt

T = TypeVar("T")
REQUEST_S = 0.025
TENANT = "default"
LONG_S = 3600
SETTINGS = Settings(
    bucket="rounds",
    lease_s=LONG_S,
    queue_poll_s=LONG_S,
    log_interval_s=LONG_S,
    progress_interval_s=LONG_S,
    min_free_bytes=0,  # as many as the simulated engine reports
)
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True, slots=True)
class Rounds:
    """`accepted`: from the request to its 202; `completed`: to the end that a long poll returns, without the
    engine's time."""

    accepted: float
    completed: float


class SlowBucket(MemoryObjectStore):
    """A bucket on which each request takes 25 ms; requests run concurrently."""

    async def put(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        return await self._slowly(super().put(key, body, content_type=content_type))

    async def create(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        return await self._slowly(super().create(key, body, content_type=content_type))

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        return await self._slowly(super().replace(key, body, etag=etag, content_type=content_type))

    async def get(self, key: str) -> StoredObject:
        return await self._slowly(super().get(key))

    async def upload_file(self, key: str, path: Path, *, content_type: str, size: int | None = None) -> None:
        await self._slowly(super().upload_file(key, path, content_type=content_type, size=size))

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        return await self._slowly(super().list(prefix, after=after, limit=limit))

    async def delete(self, *keys: str) -> None:
        await self._slowly(super().delete(*keys))

    async def _slowly(self, effect: Awaitable[T]) -> T:
        await asyncio.sleep(REQUEST_S)
        return await effect


class TimedEngine(SimulatedEngine):
    """An engine that sums its time from submission to the end of each prompt in `worked_s`."""

    worked_s = 0.0

    async def submit(self, prompt: Prompt) -> dict[str, Any]:
        self._began = asyncio.get_running_loop().time()
        return await super().submit(prompt)

    async def _run(self, prompt: Prompt) -> None:
        await super()._run(prompt)
        self.worked_s += asyncio.get_running_loop().time() - self._began


class TimedHost(SimulatedHost):
    async def start(self) -> None:
        self._engine = TimedEngine(self._faults, self._output, self.log)

    @property
    def engine(self) -> TimedEngine:
        assert isinstance(self._engine, TimedEngine)
        return self._engine


def rounds_of(course: Callable[[Stores, SlowBucket], Coroutine[Any, Any, Callable[[], Awaitable[object]]]]) -> float:
    """Return the rounds of the call that `course` returns, after it has prepared the bucket."""

    async def timed() -> float:
        loop = asyncio.get_running_loop()
        clock = VirtualClock(loop)
        bucket = SlowBucket(clock)
        call = await course(make_stores(SETTINGS, bucket, MemorySignal(), clock), bucket)
        began = loop.time()
        await call()
        return round((loop.time() - began) / REQUEST_S, 1)

    return run_virtually(timed)


def measured_rounds(idempotency_key: str | None = None) -> Rounds:
    """Return the rounds of one small job with an idle worker."""
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-rounds-") as folder:
        output = Path(folder) / "output.txt"
        output.write_text("made\n")
        return run_virtually(lambda: _course(output, idempotency_key))


async def _course(output: Path, idempotency_key: str | None) -> Rounds:
    loop = asyncio.get_running_loop()
    clock, signal = VirtualClock(loop), MemorySignal()
    bucket, faults = SlowBucket(clock), Faults(0, NONE)
    host = TimedHost(faults, output)
    worker = worker_loop(SETTINGS, make_stores(SETTINGS, bucket, signal, clock), host)
    await worker.start()
    stop = asyncio.Event()
    serving = asyncio.create_task(worker.serve(stop))
    services = api_services(SETTINGS, make_stores(SETTINGS, bucket, signal, clock), NoLauncher())
    await asyncio.sleep(10)  # until the worker has found no job and listens

    began = loop.time()
    acceptance = Acceptance(services, TENANT)
    identity = Identity(idempotency_key, "fingerprint")
    accepted = await acceptance.replayed(identity) or await acceptance.job(_prepared(), identity)
    accepted_s = loop.time() - began
    watch = JobWatch(services.stores.jobs, signal)
    ended = await watch.until(accepted.stored, lambda record: record.status.is_terminal, LONG_S)
    ended_s = loop.time() - began - host.engine.worked_s
    assert ended.record.error is None, ended.record
    stop.set()
    await serving
    return Rounds(round(accepted_s / REQUEST_S, 1), round(ended_s / REQUEST_S, 1))


def _prepared() -> PreparedJob:
    return PreparedJob(JobOptions(), PreparedWorkflow.of(GRAPH).parts, (), None, (), (), "own", {})

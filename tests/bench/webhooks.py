"""Events from commit to receiver: latency, throughput next to a receiver that hangs, requests to the bucket."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from pydantic import SecretStr

from infra.compose.deliverer import dispatcher, webhook_transport
from infra.compose.stores import make_stores
from infra.settings import Settings
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import SystemClock
from storage.index_keys import OUTBOX
from storage.signal import MemorySignal
from storage.stores import Stores
from storage.webhooks.signing import new_secret
from tests.bench.figures import Figure, Table, figures
from tests.bench.server import bench_store
from tests.support.records import a_job

LATENCIES = 200
EVENTS = 640
RECEIVERS = 64
SETTINGS = Settings(
    bucket="bench", webhook_secret=SecretStr(new_secret()), webhook_loopback="true", webhook_timeout_s=5
)


@dataclass
class Receivers:
    """One server on which each path is a receiver. `/hangs` never answers."""

    base: str = ""
    arrivals: dict[str, float] = field(default_factory=dict)

    async def take(self, request: web.Request) -> web.Response:
        if request.path == "/hangs":
            await asyncio.sleep(3600)
        self.arrivals.setdefault(request.headers["webhook-id"], time.perf_counter())
        return web.Response(status=204)


@asynccontextmanager
async def _receivers() -> AsyncIterator[Receivers]:
    there = Receivers()
    app = web.Application()
    app.router.add_post("/{name}", there.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    there.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield there
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _delivering(objects: ObjectStore) -> AsyncIterator[Stores]:
    stores = make_stores(SETTINGS, objects, MemorySignal())
    transport, stop = webhook_transport(SETTINGS, stores), asyncio.Event()
    serving = asyncio.create_task(dispatcher(SETTINGS, stores, transport).serve(stop))
    try:
        yield stores
    finally:
        stop.set()
        await serving


async def _cancelled(stores: Stores, url: str) -> str:
    """Cancel a job, with its commit as the last call, and return the id of its event."""
    record = a_job(created_at=SystemClock().now(), webhook_url=url, webhook_events=("failed",))
    await stores.jobs.create(record, workflow=b"{}")
    now = SystemClock().now()
    await stores.jobs.evolve(record.tenant, record.job_id, lambda job: job.cancel(now=now))
    return f"evt_{record.job_id}_000001"


async def latency() -> list[Figure]:
    async with _receivers() as there, bench_store() as objects, _delivering(objects) as stores:
        waits = []
        for _ in range(LATENCIES):
            event_id = await _cancelled(stores, f"{there.base}/one")
            committed = time.perf_counter()
            await _until(there.arrivals.__contains__, event_id)
            waits.append(1000 * max(0.0, there.arrivals[event_id] - committed))
    cuts = statistics.quantiles(waits, n=100)
    return [Figure("webhook: commit to receipt, real S3 server", f"p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms")]


async def throughput(receivers: int, *, one_hangs: bool) -> list[Figure]:
    async with _receivers() as there:
        objects = MemoryObjectStore(SystemClock())
        quiet = make_stores(SETTINGS, objects, MemorySignal())
        urls = [f"{there.base}/r{number}" for number in range(receivers)]
        wanted = [await _cancelled(quiet, urls[number % receivers]) for number in range(EVENTS)]
        for _ in range(20 if one_hangs else 0):
            await _cancelled(quiet, f"{there.base}/hangs")
        started = time.perf_counter()
        async with _delivering(objects):
            await _until(lambda: len(there.arrivals) == len(wanted))
            seconds = time.perf_counter() - started
    stalled = ", and one that hangs" if one_hangs else ""
    name = f"webhook: {EVENTS} events, receivers: {receivers}{stalled}"
    return [Figure(name, f"{EVENTS / seconds:.0f} a second")]


async def requests() -> list[Figure]:
    """Measure the successful path to a receiver that is known to be healthy."""
    async with _receivers() as there:
        objects = MemoryObjectStore(SystemClock())
        async with _delivering(objects) as stores:
            await _arrival(stores, there)
            asked = Counter[str]()
            record = a_job(created_at=SystemClock().now(), webhook_url=f"{there.base}/one", webhook_events=("failed",))
            await stores.jobs.create(record, workflow=b"{}")
            objects.requests.clear()
            now = SystemClock().now()
            silent = a_job(created_at=now)
            await stores.jobs.create(silent, workflow=b"{}")
            await stores.jobs.settled()
            objects.requests.clear()
            await stores.jobs.evolve(silent.tenant, silent.job_id, lambda job: job.cancel(now=now))
            await stores.jobs.settled()
            asked.subtract(objects.requests)
            objects.requests.clear()
            await stores.jobs.evolve(record.tenant, record.job_id, lambda job: job.cancel(now=now))
            await _settled(objects)
            asked.update(objects.requests)
    parts = ", ".join(f"{count} {verb}" for verb, count in sorted(asked.items()) if count)
    total = sum(count for verb, count in asked.items() if verb != "LIST")
    return [
        Figure("webhook: requests an event, but for LISTs that many share", f"{total} ({parts})", "≤ 4 and its pointer")
    ]


async def _arrival(stores: Stores, there: Receivers) -> None:
    event_id = await _cancelled(stores, f"{there.base}/one")
    await _until(lambda: event_id in there.arrivals)
    await asyncio.sleep(0.2)


async def _settled(objects: MemoryObjectStore) -> None:
    await _until(lambda: not any(key.startswith(OUTBOX) for key in objects.keys()))  # noqa: SIM118  it is no dict
    await asyncio.sleep(0.2)


async def _until(check: Callable[..., bool], *arguments: object) -> None:
    while not check(*arguments):  # noqa: ASYNC110  the arrivals are set by other threads and processes
        await asyncio.sleep(0.0005)


async def measure() -> list[Figure]:
    rows = await latency()
    for receivers, one_hangs in ((1, False), (RECEIVERS, False), (RECEIVERS, True)):
        rows += await throughput(receivers, one_hangs=one_hangs)
    return rows + await requests()


def run() -> Table:
    return figures(asyncio.run(measure()))

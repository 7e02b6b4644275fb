"""Open long polls: the API's memory for each, and the bucket requests and delays that all of them cause.

/v1 has no SSE: a client that needs a job's end at once requests GET /v1/jobs/{id}?wait=…, which is answered at the end.
"""

import asyncio
import time
from dataclasses import dataclass

import aiohttp
import psutil
from anyio.from_thread import start_blocking_portal

from infra.compose.stores import make_stores
from infra.settings import Settings
from storage.bucket.s3 import S3ObjectStore
from storage.clock import SystemClock
from storage.signal import MemorySignal
from tests.bench.api import api_session, api_settings
from tests.bench.figures import Table, percentile
from tests.bench.server import BUCKET, bench_config, bench_server
from tests.support.api_process import api_process
from tests.support.faulty_proxy import FaultyProxy, faulty_proxy
from tests.support.flood import allow_many_files
from tests.support.records import a_job

WAITERS = 2_000
OPENED_AT_ONCE = 50
WATCHED_S = 10.0
COLUMNS = ("open long polls", "RSS of the API each", "requests to the bucket", "/health meanwhile: p50, p95")


@dataclass(frozen=True, slots=True)
class Waiting:
    """The API's memory per long poll in KiB, bucket requests per second, and the seconds of each /health."""

    kib_each: float
    bucket_a_second: float
    health_s: list[float]

    def row(self, name: str) -> tuple[str, ...]:
        p50, p95 = (1000 * percentile(self.health_s, percent) for percent in (50, 95))
        return (name, f"{self.kib_each:.0f} KiB", f"{self.bucket_a_second:.1f} a second", f"{p50:.0f}, {p95:.0f} ms")


def _waiting(endpoint_url: str, jobs: int) -> Waiting:
    """Open WAITERS long polls on this many jobs, which no worker runs. The counting proxy has its own loop."""
    job_ids = asyncio.run(_jobs(endpoint_url, jobs))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(faulty_proxy(endpoint_url)) as proxy,
        api_process(api_settings(proxy.url)) as api_url,
    ):
        return asyncio.run(_polled(api_url, job_ids, proxy))


async def _polled(api_url: str, job_ids: list[str], proxy: FaultyProxy) -> Waiting:
    api = next(child for child in psutil.Process().children() if "infra.local.api_process" in child.cmdline())
    async with api_session(api_url) as session:
        await _show(session, job_ids[0])
        before = api.memory_info().rss
        proxy.seen.clear()
        polls = await _opened(session, job_ids)
        # One GET for each long poll, and one for each watched job.
        while len(proxy.seen) < WAITERS + len(job_ids):  # noqa: ASYNC110  the proxy runs in another thread
            await asyncio.sleep(0.1)
        bucket_a_second, health = await _watched(session, proxy)
        grown = api.memory_info().rss - before
        assert not any(poll.done() for poll in polls)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
    return Waiting(grown / 1024 / WAITERS, bucket_a_second, health)


async def _opened(session: aiohttp.ClientSession, job_ids: list[str]) -> list[asyncio.Task[None]]:
    """Open the polls a few at a time, so that none is refused because the listener's backlog is full."""
    polls = []
    for number in range(WAITERS):
        polls.append(asyncio.create_task(_show(session, job_ids[number % len(job_ids)], wait="60")))
        if number % OPENED_AT_ONCE == 0:
            await asyncio.sleep(0.1)
    return polls


async def _show(session: aiohttp.ClientSession, job_id: str, **query: str) -> None:
    async with session.get(f"/v1/jobs/{job_id}", params=query) as answer:
        assert answer.status == 200
        await answer.read()


async def _watched(session: aiohttp.ClientSession, proxy: FaultyProxy) -> tuple[float, list[float]]:
    """Return the bucket requests per second and the duration of each /health over WATCHED_S."""
    health = []
    proxy.seen.clear()
    began = time.perf_counter()
    while (asked := time.perf_counter()) - began < WATCHED_S:
        async with session.get("/health") as answer:
            assert answer.status == 200
        health.append(time.perf_counter() - asked)
        await asyncio.sleep(0.1)
    return len(proxy.seen) / (time.perf_counter() - began), health


async def _jobs(endpoint_url: str, number: int) -> list[str]:
    objects = S3ObjectStore(bench_config(endpoint_url))
    jobs = make_stores(Settings(bucket=BUCKET), objects, MemorySignal()).jobs
    records = [a_job(created_at=SystemClock().now()) for _ in range(number)]
    await asyncio.gather(*(jobs.create_unpublished(record, workflow=b"{}") for record in records))
    await objects.close()
    return [record.job_id for record in records]


async def _measure() -> list[tuple[str, ...]]:
    cases = {f"{WAITERS}, on one job": 1, f"{WAITERS}, each on a job of its own": WAITERS}
    async with bench_server() as endpoint_url:
        return [(await asyncio.to_thread(_waiting, endpoint_url, jobs)).row(name) for name, jobs in cases.items()]


def run() -> Table:
    allow_many_files()
    return Table(COLUMNS, asyncio.run(_measure()))

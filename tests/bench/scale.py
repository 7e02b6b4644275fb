"""The cost of reads as the number of jobs grows: a claim, a page of a list and the reaper's sweep, in buckets of many
sizes.

On the real S3 server each size is a bucket below its own prefix, and the sizes take turns, so that the load of the
machine is the same for all. The largest sizes are in memory, where requests can be counted but times mean nothing,
because that store reads every key for a LIST.
"""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from infra.compose.reaper import reaper
from infra.compose.stores import make_stores
from infra.settings import Settings
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.bucket.s3 import S3ObjectStore
from storage.clock import SystemClock
from storage.launcher import NoLauncher
from storage.signal import MemorySignal
from storage.stores import Stores
from tests.bench.figures import Table, percentile
from tests.bench.server import bench_config, bench_server
from tests.support.crowds import AT_ONCE, fill_finished, fill_queued
from tests.support.records import itself

QUEUED, QUEUED_IN_MEMORY = (10, 1_000, 10_000), 50_000
FINISHED, FINISHED_IN_MEMORY = (100, 10_000), 100_000
ROUNDS = 8
"""Fewer than the jobs of the smallest queue."""
PAGE = 50
SETTINGS = Settings(bucket="bench")
FILLED = (
    "Queued jobs are their queue keys and the records of the first ones; finished jobs are their rows in the "
    "list, their timers and the records of the newest: these operations read nothing else. The reaper reads at most "
    "100 queued jobs of a pool in a pass."
)
IN_MEMORY = (
    f"{QUEUED_IN_MEMORY:,} queued and {FINISHED_IN_MEMORY:,} finished jobs are in the in-memory store, for their "
    "requests alone: the real server takes minutes to be filled with as many."
)
NOTES = (f"Times: real S3 server, {ROUNDS} runs at each size, in turn. {FILLED}", IN_MEMORY)

Bucket = S3ObjectStore | MemoryObjectStore
Read = Callable[[Stores], Awaitable[object]]
Fill = Callable[[ObjectStore, int, datetime], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket with this many jobs. `taken` are the seconds of each read, `asked` the requests of the last one."""

    jobs: int
    objects: Bucket
    stores: Stores
    taken: list[float] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, jobs: int, objects: Bucket) -> "Place":
        return cls(jobs, objects, make_stores(SETTINGS, objects, MemorySignal()))

    async def timed(self, reading: Read) -> None:
        self.objects.requests.clear()
        started = time.perf_counter()
        await reading(self.stores)
        self.taken.append(time.perf_counter() - started)
        self.asked.clear()
        self.asked.update(self.objects.requests)

    def row(self, name: str) -> tuple[str, ...]:
        parts = ", ".join(f"{count} {verb}" for verb, count in sorted(self.asked.items()))
        times = "" if isinstance(self.objects, MemoryObjectStore) else self._times()
        return (name, f"{self.jobs:,}", f"{self.asked.total()} ({parts})", times)

    def _times(self) -> str:
        return f"{1000 * statistics.median(self.taken):.0f} ms, {1000 * percentile(self.taken, 90):.0f} ms"


async def claim(stores: Stores) -> None:
    assert await stores.queue.claim("default", "w") is not None


async def page(stores: Stores) -> None:
    assert len((await stores.jobs.page("default", itself, limit=PAGE, cursor=None)).rows) == PAGE


async def sweep(stores: Stores) -> None:
    assert not await reaper(SETTINGS, stores, NoLauncher()).sweep()


async def measure() -> list[tuple[str, ...]]:
    async with bench_server() as endpoint_url:
        async with _buckets(endpoint_url, QUEUED, QUEUED_IN_MEMORY, fill_queued) as places:
            rows = await _rows("reaper's pass; queued jobs", places, sweep)
            rows += await _rows("claim; queued jobs", places, claim)
        async with _buckets(endpoint_url, FINISHED, FINISHED_IN_MEMORY, fill_finished) as places:
            rows += await _rows(f"page of {PAGE}; finished jobs", places, page)
            rows += await _rows("reaper's pass; finished jobs", places, sweep)
    return rows


async def _rows(name: str, places: Sequence[Place], reading: Read) -> list[tuple[str, ...]]:
    for place in places:
        place.taken.clear()
    for _ in range(ROUNDS):
        for place in places:
            await place.timed(reading)
    return [place.row(name) for place in places]


@asynccontextmanager
async def _buckets(endpoint_url: str, sizes: Sequence[int], in_memory: int, fill: Fill) -> AsyncIterator[list[Place]]:
    """Yield the filled buckets: those on the real server below a prefix each, and the one in memory."""
    config = replace(bench_config(endpoint_url), threads=AT_ONCE)
    stores = [S3ObjectStore(replace(config, prefix=f"{fill.__name__}-{size}")) for size in sizes]
    places = [Place.of(size, objects) for size, objects in zip(sizes, stores, strict=True)]
    places.append(Place.of(in_memory, MemoryObjectStore(SystemClock())))
    now = SystemClock().now()
    try:
        for place in places:
            await fill(place.objects, place.jobs, now)
        yield places
    finally:
        for objects in stores:
            await objects.close()


def run() -> Table:
    return Table(("operation", "jobs", "requests", "median, 90 %"), asyncio.run(measure()), NOTES)

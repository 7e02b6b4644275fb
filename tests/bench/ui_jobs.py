"""The pages of operators in buckets of few and of many jobs: the bucket's requests, and the time of the whole answer.

The jobs are completed ones with a picture each: all of their rows in the lists, and the records of the newest thousand,
which is the most that a page reads.
"""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from storage.bucket.s3 import S3ObjectStore
from storage.clock import SystemClock
from tests.bench.figures import Table, percentile
from tests.bench.server import bench_config, bench_server
from tests.support.api_server import running_api
from tests.support.browsers import Browser, logged_in
from tests.support.crowds import AT_ONCE, completed, fill_listed
from tests.support.records import OUTPUT

SIZES = (100, 10_000)
READ = 1_000
"""The records that exist: as many as one page reads at most."""
ROUNDS = 20
PAGES = {
    "jobs, 25 of them": "/ui/jobs",
    "completed jobs, 25 of them": "/ui/jobs?status=completed",
    "runs of a workflow that has none": "/ui/workflows/still/runs",
    "system": "/ui/system",
}
ONCE = {"usage of 14 days": "/ui/usage"}
"""Pages whose answer is kept for a minute, so that they are asked for once."""
AIM_MS = 300
NOTE = (
    f"Real S3 server; API, browser and this bench in one process, one request at a time, {ROUNDS} of each page; the "
    f"usage once, since it is kept for a minute. The aim of the page of jobs is {AIM_MS} ms at 10,000 jobs."
)


async def measure() -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    async with bench_server() as endpoint_url:
        for size in SIZES:
            async with (
                _filled(endpoint_url, size) as objects,
                running_api(objects, SystemClock()) as api,
                logged_in(api) as browser,
            ):
                for name, path in (PAGES | ONCE).items():
                    rounds = 1 if name in ONCE else ROUNDS
                    rows.append((name, f"{size:,}", *await _row(browser, objects, path, rounds)))
    return sorted(rows, key=lambda row: list(PAGES | ONCE).index(row[0]))


async def _row(browser: Browser, objects: S3ObjectStore, path: str, rounds: int) -> tuple[str, str]:
    """Return the requests of the last answer, and the times of all."""
    taken, asked = [], Counter[str]()
    for _ in range(rounds):
        objects.requests.clear()
        began = time.perf_counter()
        answer = await browser.get(path)
        taken.append(1000 * (time.perf_counter() - began))
        assert answer.status_code == 200, path
        asked = Counter(objects.requests)
    parts = ", ".join(f"{count} {verb}" for verb, count in sorted(asked.items()))
    high = f", {percentile(taken, 90):.0f} ms" if rounds > 1 else ""
    return f"{asked.total()} ({parts})", f"{statistics.median(taken):.0f} ms{high}"


@asynccontextmanager
async def _filled(endpoint_url: str, size: int) -> AsyncIterator[S3ObjectStore]:
    """Yield a bucket below a prefix of its own, with this many jobs, a second apart."""
    objects = S3ObjectStore(replace(bench_config(endpoint_url), threads=AT_ONCE, prefix=f"ui-{size}"))
    now = SystemClock().now()
    try:
        jobs = [completed(now - timedelta(seconds=size - n), outputs=(OUTPUT,)) for n in range(size)]
        await fill_listed(objects, jobs, read=READ)
        yield objects
    finally:
        await objects.close()


def run() -> Table:
    return Table(("page", "jobs", "requests", "median, 90 %"), asyncio.run(measure()), (NOTE,))

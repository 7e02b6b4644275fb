"""Clients that run one job after another, each until its end is known, and the durations."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.bench.figures import percentile

Job = Callable[[], Awaitable[None]]
"""Runs one job from its submission to the measured end; raises if the job fails."""

CLIENTS = (1, 4, 16)
JOBS = {1: 30, 4: 48, 16: 64}
"""The jobs of all clients together: enough for a p95, and few enough for a bench of many rows."""
WARM_UP = 3
LOST_AFTER_S = 20.0


@dataclass(slots=True)
class Series:
    """`seconds` of each ended job; `lost` counts jobs whose end was not known within `LOST_AFTER_S`."""

    seconds: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0
    lost: int = 0

    @property
    def p50_ms(self) -> float:
        return 1000 * statistics.median(self.seconds)

    def cell(self) -> str:
        """Return p50 / p95 in milliseconds, and jobs per second."""
        if len(self.seconds) < 2:
            return f"{self.lost} lost"
        text = f"{times(self.seconds)} ms, {len(self.seconds) / self.elapsed_s:.0f}/s"
        return f"{text}, {self.lost} lost" if self.lost else text


def times(seconds: list[float]) -> str:
    """Return p50 / p95 in milliseconds."""
    return f"{1000 * statistics.median(seconds):.0f} / {1000 * percentile(seconds, 95):.0f}"


async def measured(job: Job, clients: int) -> Series:
    """Run this many clients at once; none of them pauses between two jobs."""
    series, left = Series(), iter(range(JOBS[clients]))

    async def client() -> None:
        for _ in left:
            await _timed(job, series)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    series.elapsed_s = time.perf_counter() - started
    return series


async def all_measured(job: Job) -> dict[int, Series]:
    """Return the series by number of clients, after a few jobs that do not count."""
    for _ in range(WARM_UP):
        await _timed(job, Series())
    return {clients: await measured(job, clients) for clients in CLIENTS}


async def _timed(job: Job, series: Series) -> None:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(LOST_AFTER_S):
            await job()
    except TimeoutError:
        series.lost += 1
    else:
        series.seconds.append(time.perf_counter() - started)

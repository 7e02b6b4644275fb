"""The time of each stage of one job on an idle worker, by the client's clock and the engine's own.

The engine's history has the start and end of each prompt in whole milliseconds.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench.overhead.cpu import cpu_ms_each, cpu_seconds
from tests.bench.overhead.load import WARM_UP, times
from tests.bench.overhead.ours import Ours

JOBS = 40
PAUSE_S = 0.15
"""The pause between two jobs, so that a worker's work after a job does not count for the next one."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of one job, in seconds of the wall clock."""

    posted: float
    accepted: float
    seen: float


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds of each stage by job; `cpu_ms` is the processor time per job by process, in milliseconds."""

    accepted: list[float]
    started: list[float]
    seen: list[float]
    cpu_ms: Mapping[str, float]

    def rows(self) -> list[tuple[str, str, str]]:
        """Return name, p50 / p95, and the target for the p50."""
        return [
            ("idle worker: POST → 2xx", f"{times(self.accepted)} ms", "≤ 15 ms"),
            ("idle worker: 2xx → the engine has started", f"{times(self.started)} ms", "≤ 50 ms"),
            ("idle worker: the engine has finished → completed seen", f"{times(self.seen)} ms", "≤ 60 ms"),
            ("processor time a job", self._processor_time(), "API ≤ 12, worker ≤ 20, S3 server ≤ 35 ms"),
        ]

    def _processor_time(self) -> str:
        wanted = {"api": "API", "worker-1": "worker", "s3": "S3 server", "engine-1": "engine"}
        return ", ".join(f"{name} {self.cpu_ms[key]:.0f}" for key, name in wanted.items() if key in self.cpu_ms) + " ms"


async def stages(system: Ours) -> Stages:
    await _marks(system, WARM_UP)
    before = cpu_seconds(system.processes)
    marks = await _marks(system, JOBS)
    after = cpu_seconds(system.processes)
    history = await system.engine_history()
    # Jobs run one after another on one worker, whose engine keeps its history in the order of execution.
    runs = list(zip(list(history.values())[-JOBS:], marks, strict=True))
    return Stages(
        accepted=[of_job.accepted - of_job.posted for _, of_job in runs],
        started=[_time_of("execution_start", entry) - of_job.accepted for entry, of_job in runs],
        seen=[of_job.seen - _time_of("execution_success", entry) for entry, of_job in runs],
        cpu_ms=cpu_ms_each(before, after, JOBS),
    )


async def _marks(system: Ours, jobs: int) -> list[Marks]:
    """Run jobs one after another and return their marks."""
    marks = []
    for _ in range(jobs):
        posted = time.time()
        job_id = await system.accepted()
        accepted = time.time()
        await system.seen(job_id)
        marks.append(Marks(posted, accepted, time.time()))
        await asyncio.sleep(PAUSE_S)
    return marks


def _time_of(kind: str, entry: Any) -> float:
    (data,) = (data for name, data in entry["status"]["messages"] if name == kind)
    return float(data["timestamp"]) / 1000

"""How much longer a worker takes for many jobs than its engine alone: the time in which the GPU waits for the bucket.

The engine is the lite one, whose node waits as a GPU computes; each job writes a file of noise. Alone, it gets all
prompts at once. The bucket is a real S3 server, behind a proxy that makes it as slow as S3.
"""

import asyncio
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from storage.bucket.s3 import S3ObjectStore
from storage.jobs.record import Status
from tests.bench.figures import Table
from tests.bench.server import bench_config, bench_server
from tests.support.graphs import EMPTY, node
from tests.support.slow_proxy import slow_proxy
from tests.support.workbench import Bench, workbench
from workers.comfy.engine import Prompt

JOBS = 40
MEBIBYTES = 8
BYTES_PER_S = 100 * 1024**2
POLL_S = 0.01
LIMIT_S = 300
CASES = ((1.0, 0.025, 1.05), (1.0, 0.0, 1.05), (0.2, 0.025, 1.25), (0.2, 0.0, 1.25))
"""Seconds of a job, seconds of a request to the bucket, and the aim for the ratio to the engine alone."""


def graph(seconds: float, number: int) -> dict[str, Any]:
    """Return a job that no cache can answer."""
    return {
        "1": EMPTY | {"inputs": {**EMPTY["inputs"], "color": number}},
        "2": node("LiteHang", image=["1", 0], seconds=seconds),
        "3": node("LiteNoise", image=["2", 0], mebibytes=MEBIBYTES, filename_prefix=uuid.uuid4().hex),
    }


async def alone_s(bench: Bench, seconds: float) -> float:
    """Return the engine's time for all prompts, which it gets at once."""
    prompts = [Prompt(str(uuid.uuid4()), str(uuid.uuid4()), graph(seconds, number)) for number in range(JOBS)]
    engine, began = bench.host.engine, time.perf_counter()
    for prompt in prompts:
        await engine.submit(prompt)
    while await engine.history(prompts[-1].prompt_id) is None:  # noqa: ASYNC110  the engine has no Event
        await asyncio.sleep(POLL_S)
    return time.perf_counter() - began


async def as_jobs_s(bench: Bench, seconds: float) -> float:
    """Return the time from the start of the worker's loop until the last job has completed."""
    job_ids = [(await bench.submit(graph(seconds, JOBS + number), timeout_s=LIMIT_S)).job_id for number in range(JOBS)]
    stop, began = asyncio.Event(), time.perf_counter()
    serving = asyncio.create_task(bench.worker.serve(stop))
    try:
        async with asyncio.timeout(LIMIT_S):
            for job_id in job_ids:
                ended = await _ended(bench, job_id)
                assert ended is Status.COMPLETED, ended
        return time.perf_counter() - began
    finally:
        stop.set()
        await serving


async def _ended(bench: Bench, job_id: str) -> Status:
    while True:
        status = (await bench.jobs.read("default", job_id)).record.status
        if status.is_terminal:
            return status
        await asyncio.sleep(POLL_S)


@asynccontextmanager
async def slow_bench(request_s: float) -> AsyncIterator[Bench]:
    async with (
        bench_server() as url,
        slow_proxy(url, request_s=request_s, bytes_per_s=BYTES_PER_S) as slow_url,
    ):
        objects = S3ObjectStore(bench_config(slow_url))
        with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
            async with workbench(Path(folder), objects) as bench:
                yield bench
        await objects.close()


async def _measured(seconds: float, request_s: float) -> tuple[float, float]:
    async with slow_bench(request_s) as bench:
        await bench.run(graph(0.0, 2 * JOBS))  # opens the connections to the bucket
        return await alone_s(bench, seconds), await as_jobs_s(bench, seconds)


def run(cases: Sequence[tuple[float, float, float]] = CASES) -> Table:
    rows = []
    for seconds, request_s, aim in cases:
        alone, ours = asyncio.run(_measured(seconds, request_s))
        rows.append(
            (
                f"{JOBS} jobs of {seconds:.1f} s",
                f"{request_s * 1000:.0f} ms",
                f"{alone:.1f} s",
                f"{ours:.1f} s",
                f"{ours / alone:.3f}",
                f"≤ {aim:.2f}",
                f"{(ours - alone) / JOBS * 1000:.0f} ms",
            )
        )
    columns = ("", "a request to the bucket", "engine alone", "as jobs", "ratio", "aim", "between two jobs")
    return Table(columns, rows, [f"Each job makes {MEBIBYTES} MiB; the bucket takes 100 MiB/s."])

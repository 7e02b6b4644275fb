"""A 1 GiB output: how much the worker's memory grows while it is uploaded, and how fast it goes."""

import asyncio
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import psutil

from storage.jobs.record import Status
from tests.bench.figures import Figure, Table, figures
from tests.bench.server import bench_store
from tests.support.workbench import workbench

MEBIBYTES = 1024
SMALL = {"1": {"class_type": "LiteNoise", "inputs": {"mebibytes": 1, "filename_prefix": "small"}}}
LARGE = {"1": {"class_type": "LiteNoise", "inputs": {"mebibytes": MEBIBYTES, "filename_prefix": "large"}}}
MIB = 1024 * 1024


class PeakMemory:
    """The largest RSS of this process while the context is open."""

    def __enter__(self) -> Self:
        self._process = psutil.Process()
        self.start = self.peak = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, self._process.memory_info().rss)

    @property
    def growth_mib(self) -> float:
        return (self.peak - self.start) / MIB


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
        async with bench_store() as objects, workbench(Path(folder), objects) as bench:
            await bench.run(SMALL)  # what a first job loads is not what a large one costs
            with PeakMemory() as memory:
                started = time.perf_counter()
                record = await bench.run(LARGE, timeout_s=600)
                seconds = time.perf_counter() - started
    assert record.status is Status.COMPLETED, record.error_detail
    return [
        Figure("1 GiB output: growth of the worker's RSS", f"{memory.growth_mib:.0f} MiB", "≤ 64 MiB"),
        Figure("1 GiB output: written, hashed and uploaded", f"{seconds:.1f} s, {MEBIBYTES / seconds:.0f} MiB/s"),
    ]


def run() -> Table:
    return figures(asyncio.run(measure()))

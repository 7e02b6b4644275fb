"""The time saved by uploading outputs while later nodes run: a graph of two slow stages, with and without.

Without: the engine's socket does not report finished nodes, so outputs are taken from its history after the end, as
after a lost message, and no other code changes.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from storage.jobs.record import Status
from tests.bench.figures import Figure, Table, figures
from tests.bench.server import bench_store
from tests.support.workbench import Bench, workbench
from workers.comfy.files import FolderFiles
from workers.comfy.http_engine import HttpEngine
from workers.comfy.process import EngineProcess
from workflows.messages import Executed, Message

ROUNDS = 3
STEPS, SECONDS = 30, 3.0
MEBIBYTES = 256


class TacitEngine(HttpEngine):
    """An engine whose socket does not report outputs of nodes."""

    @asynccontextmanager
    async def connect(self, client_id: str) -> AsyncIterator[AsyncIterator[tuple[Message, int]]]:
        async with super().connect(client_id) as messages:
            yield (found async for found in messages if not isinstance(found[0], Executed))


class TacitProcess(EngineProcess):
    async def start(self) -> None:
        await super().start()
        folders = self._spec.folders
        files = FolderFiles(input_dir=folders.input, output_dir=folders.output, temp_dir=folders.temp)
        await self.engine.close()
        self._engine = TacitEngine(self.url, files)


PROCESSES = {"as it is": EngineProcess, "uploads after the end": TacitProcess}


def stages(seconds: float) -> dict[str, Any]:
    """Return a graph of two pictures that take this long each, with a file of noise after each. The second is made
    from the first, because lite runs independent nodes concurrently, as ComfyUI does with asynchronous nodes."""
    graph: dict[str, Any] = {
        "blank": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}
    }
    for before, stage in (("blank", "first"), ("first", "second")):
        slow = {"image": [before, 0], "steps": STEPS, "seconds_per_step": seconds / STEPS, "preview": False}
        noise = {"image": [stage, 0], "mebibytes": MEBIBYTES, "filename_prefix": stage}
        graph[stage] = {"class_type": "LiteSlowSteps", "inputs": slow}
        graph[f"{stage}_output"] = {"class_type": "LiteNoise", "inputs": noise}
    return graph


async def _job_s(bench: Bench) -> float:
    """Return the seconds from the claim to the end."""
    await bench.submit(stages(SECONDS), timeout_s=600)
    began = time.perf_counter()
    record = await bench.serve_one()
    assert record is not None
    assert record.status is Status.COMPLETED, record.error_detail
    assert len(record.outputs) == 2
    return time.perf_counter() - began


async def _measure() -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in PROCESSES}
    async with bench_store() as objects:
        for _ in range(ROUNDS):
            for name, process in PROCESSES.items():
                with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
                    async with workbench(Path(folder), objects, process=process) as bench:
                        taken[name].append(await _job_s(bench))
    return taken


def run() -> Table:
    taken = asyncio.run(_measure())
    rows = [Figure(f"job, {name}", f"{statistics.median(seconds):.1f} s") for name, seconds in taken.items()]
    saved = [after - now for now, after in zip(*taken.values(), strict=True)]
    return figures(
        [*rows, Figure("saved", f"{statistics.median(saved):.1f} s")],
        f"Two stages of {SECONDS:.0f} s, one after the other, each with an output of {MEBIBYTES} MiB. "
        f"Medians of {ROUNDS} rounds.",
    )

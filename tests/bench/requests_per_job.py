"""Requests to the bucket for one small job, by phase; the same however many jobs there are."""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from storage.bucket.memory import MemoryObjectStore
from storage.clock import SystemClock
from tests.bench.figures import Figure, Table, figures
from tests.support.api_server import BLUE, running_api
from tests.support.workbench import workbench


async def measure() -> list[Figure]:
    objects = MemoryObjectStore(SystemClock())
    rows: list[Figure] = []

    def phase(name: str) -> None:
        counted = Counter(objects.requests)
        objects.requests.clear()
        parts = ", ".join(f"{count} {verb}" for verb, count in sorted(counted.items()) if count)
        rows.append(Figure(f"requests: {name}", f"{sum(counted.values())} ({parts})"))

    with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
        async with running_api(objects, SystemClock()) as api, workbench(Path(folder), objects) as bench:
            await _submit(api.client)
            await bench.worker.serve_one()
            objects.requests.clear()
            job_id = await _submit(api.client)
            phase("POST /v1/jobs")
            await bench.worker.serve_one()
            phase("claim, run, one output, conclude")
            await api.client.get(f"/v1/jobs/{job_id}")
            phase("GET /v1/jobs/{id}")
            await api.client.get("/v1/jobs")
            phase("GET /v1/jobs, a page of 2")
            await bench.worker.serve_one()
            phase("an idle worker's look at the queue")
    return rows


async def _submit(client: Any) -> str:
    job_id: str = (await client.post("/v1/jobs", json={"workflow": BLUE})).json()["job_id"]
    return job_id


def run() -> Table:
    return figures(asyncio.run(measure()))

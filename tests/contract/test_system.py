"""GET /v1/system and costs, on the in-memory store and the real S3 server, and the commands that show them."""

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from app import __version__
from app.config import ApiConfig
from infra.cli.output import REFUSED
from infra.cli.root import main
from infra.cli.system import failed_starts_line
from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.jobs.models import Runtime
from storage.pools.worker_facts import AttentionChoice, WorkerFacts, WorkerFactsStore
from tests.support.api_server import BLUE, KEY, Api, running_api
from tests.support.engines import saved
from tests.support.workbench import workbench

pytestmark = pytest.mark.anyio

L40S = Runtime(worker="w", gpu="L40S", attention="sage", engine_version="0.33.0", usd_per_s=0.0005)
ATTENTION = AttentionChoice(
    backend="sage",
    flag="--use-sage-attention",
    reason="right here",
    gpu="NVIDIA L40S",
    gpu_memory_bytes=48 * 1024**3,
    capability="8.9",
    sageattention="2.2.0",
    cosine=0.9996,
    sage_ms=1.5,
    sdpa_ms=3.0,
)


@pytest.fixture
async def api(objects: ObjectStore, clock: ManualClock) -> AsyncIterator[Api]:
    async with running_api(objects, clock, ApiConfig(api_key=KEY, gpu_pools=("h100",))) as api:
        yield api


def facts(clock: ManualClock) -> WorkerFacts:
    return WorkerFacts(
        worker="ta-1",
        started_at=clock.now(),
        engine="comfyui",
        comfyui_version="0.33.0",
        python_version="3.12.3",
        torch_version="2.9.1+cu128",
        gpu="NVIDIA L40S",
        gpu_memory_bytes=48 * 1024**3,
        attention=ATTENTION,
    )


UNKNOWN: dict[str, Any] = {
    **dict.fromkeys(("start", "queued_s", "staged_s", "executed_s", "uploaded_s", "committed_s", "gpu_idle_s")),
    "nodes": [],
    "nodes_left_out": 0,
}
"""The timings of a job that no worker has begun."""
NO_USE = {"workers": 0, "computed_s": 0.0, "idle_s": 0.0, "computed_share": None}


async def run_one(api: Api, clock: ManualClock, seconds: float, runtime: Runtime | None = L40S) -> dict[str, Any]:
    """A job as GET shows it, after a worker has completed it in its second attempt."""
    job_id = (await api.client.post("/v1/jobs", json={"workflow": BLUE})).json()["job_id"]
    for attempt in (1, 2):
        claimed = await api.queue.claim("default", "w", runtime)
        assert claimed is not None
        clock.set(clock.now() + timedelta(seconds=seconds))
        now = clock.now()
        if attempt == 1:
            await api.stores.jobs.evolve_from(claimed, lambda record: record.release(attempt=1, now=now))  # noqa: B023
        else:
            await api.stores.jobs.evolve_from(claimed, lambda record: record.complete(attempt=2, now=now, outputs=()))  # noqa: B023
    shown: dict[str, Any] = (await api.client.get(f"/v1/jobs/{job_id}")).json()
    return shown


async def test_system_shows_the_published_worker_facts(api: Api, clock: ManualClock) -> None:
    """GET /v1/system shows every pool, with the facts that its worker has published."""
    await api.stores.worker_facts.publish("h100", facts(clock))
    answer = await api.client.get("/v1/system")
    assert answer.headers["cache-control"] == "no-store"
    system = answer.json()
    assert system["version"] == __version__
    assert system["pools"][0] == {"name": "default", "engine_use": NO_USE, "worker": None, "failed_starts": None}
    worker = system["pools"][1]["worker"]
    assert (worker["worker"], worker["gpu"], worker["comfyui_version"]) == ("ta-1", "NVIDIA L40S", "0.33.0")
    assert worker["attention"] == ATTENTION.model_dump()


async def test_system_shows_failed_engine_starts(api: Api, clock: ManualClock) -> None:
    """GET /v1/system and the command show the number, reason and pause of failed engine starts."""
    for number in range(3):
        await api.stores.engine_starts.fail("h100", f"ta-{number}", "the engine ended", ("no kernel image",))
    pools = (await api.client.get("/v1/system")).json()["pools"]
    assert pools[0]["failed_starts"] is None
    failed = pools[1]["failed_starts"]
    assert (failed["failures"], failed["message"], failed["log_tail"]) == (3, "the engine ended", ["no kernel image"])
    assert datetime.fromisoformat(failed["paused_until"]) == clock.now() + timedelta(seconds=300)
    assert failed_starts_line(pools[0]) is None
    assert failed_starts_line(pools[1]) == (
        "the engine's last 3 starts failed, none is tried before 2026-11-23T12:05:00: the engine ended"
    )


async def test_system_needs_a_key(api: Api) -> None:
    """GET /v1/system refuses a request without a valid key."""
    answer = await api.client.get("/v1/system", headers={"authorization": "Bearer other"})
    assert answer.status_code == 401


async def test_unreadable_worker_facts_count_as_absent(objects: ObjectStore, clock: ManualClock) -> None:
    """Worker facts that another version wrote count as absent until the next worker replaces them."""
    store = WorkerFactsStore(objects)
    await objects.put(keys.worker_facts("default"), b'{"worker": "w", "colour": "green"}')
    assert await store.read("default") is None
    await store.publish("default", facts(clock))
    assert await store.read("default") == facts(clock)


async def test_a_job_shows_its_runtime_and_cost(api: Api, clock: ManualClock) -> None:
    """A job and the job list show the cost of all attempts together, and the job its runtime."""
    queued = (await api.client.post("/v1/jobs", json={"workflow": BLUE})).json()["job_id"]
    waiting = (await api.client.get(f"/v1/jobs/{queued}")).json()
    assert waiting["runtime"] is None
    assert waiting["cost"] == {"gpu": None, "gpu_seconds": 0.0, "usd": None, "by_gpu": []}
    await api.client.delete(f"/v1/jobs/{queued}")
    job = await run_one(api, clock, 10.0)
    assert job["runtime"] == {"worker": "w", "gpu": "L40S", "attention": "sage", "engine_version": "0.33.0"}
    part = {"gpu": "L40S", "gpu_seconds": 20.0, "usd": 0.01}
    assert job["cost"] == {**part, "by_gpu": [part]}
    rows = (await api.client.get("/v1/jobs?status=completed")).json()["jobs"]
    assert [(row["job_id"], row["cost"]) for row in rows] == [(job["job_id"], job["cost"])]


async def test_a_running_job_shows_its_last_reported_cost(api: Api, clock: ManualClock) -> None:
    """The cost of a running job changes only with its record."""
    job_id = (await api.client.post("/v1/jobs", json={"workflow": BLUE})).json()["job_id"]
    await api.queue.claim("default", "w", L40S)
    clock.set(clock.now() + timedelta(seconds=5))
    assert (await api.client.get(f"/v1/jobs/{job_id}")).json()["cost"]["gpu_seconds"] == 0.0


async def test_a_worker_publishes_its_facts(tmp_path: Path) -> None:
    """A worker with the lite engine publishes no GPU and no attention, and its jobs have time but no price."""
    async with workbench(tmp_path) as bench:
        published = await bench.stores.worker_facts.read("default")
        assert published is not None
        assert (published.worker, published.engine, published.gpu, published.attention.backend) == (
            "w1",
            "lite",
            None,
            None,
        )
        assert published.python_version
        record = await bench.run(saved("blue"))
    assert record.runtime is not None
    assert (record.runtime.worker, record.runtime.gpu) == ("w1", None)
    assert record.runtime.engine_version == published.comfyui_version
    assert [(part.gpu, part.usd) for part in record.usage] == [(None, None)]
    assert record.usage[0].seconds > 0


async def test_the_first_job_of_a_worker_has_the_phases_of_its_start(tmp_path: Path) -> None:
    """The first job of a worker has the durations of the worker's start, and the next job has none."""
    async with workbench(tmp_path) as bench:
        first, second = [await bench.run(saved(name)) for name in ("a", "b")]
    assert first.runtime is not None
    assert second.runtime is not None
    assert first.runtime.start is not None
    assert set(first.runtime.start) == {"engine", "announce", "total"}
    assert first.runtime.start["total"] >= first.runtime.start["engine"] > 0
    assert second.runtime.start is None


async def test_a_job_shows_the_phases_of_its_workers_start(api: Api, clock: ManualClock) -> None:
    """A job shows the phases of its worker's start, and null before its first attempt."""
    start = {"engine": 12.5, "announce": 0.3, "total": 12.9}
    waiting = (await api.client.post("/v1/jobs", json={"workflow": BLUE})).json()["job_id"]
    assert (await api.client.get(f"/v1/jobs/{waiting}")).json()["timings"] == UNKNOWN
    await api.client.delete(f"/v1/jobs/{waiting}")
    job = await run_one(api, clock, 1.0, L40S.model_copy(update={"start": start}))
    assert job["timings"] == UNKNOWN | {"start": start, "queued_s": job["timings"]["queued_s"]}
    assert "start" not in job["runtime"]


async def test_the_commands_show_costs_and_system(clock: ManualClock, capsys: pytest.CaptureFixture[str]) -> None:
    """`jobs cost` and `system` show costs and workers as text and as JSON."""
    async with running_api(MemoryObjectStore(clock), clock) as api:
        await api.stores.worker_facts.publish("default", facts(clock))
        await run_one(api, clock, 10.0)
        await run_one(api, clock, 1.0, None)
        target = ("--api-url", str(api.client.base_url), "--api-key", KEY)

        async def run_command(*arguments: str) -> tuple[int, str]:
            code = await anyio.to_thread.run_sync(lambda: main([*arguments, *target]))
            return code, capsys.readouterr().out

        code, text = await run_command("jobs", "cost", "--since", "2020-01-01", "--json")
        costs = json.loads(text)
        assert (code, costs["total"]) == (
            0,
            {"jobs": 2, "gpu_seconds": 22.0, "usd": 0.01, "unpriced_gpu_seconds": 0.0},
        )
        assert [(row["gpu"], row["status"], row["usd"]) for row in costs["rows"]] == [
            ("L40S", "completed", 0.01),
            (None, "completed", 0.0),
        ]
        assert "L40S" in (await run_command("jobs", "cost", "--since", "2020-01-01"))[1]
        assert json.loads((await run_command("jobs", "cost", "--since", "2100-01-01", "--json"))[1])["rows"] == []
        assert (await run_command("jobs", "cost", "--since", "yesterday"))[0] == REFUSED
        assert json.loads((await run_command("system", "--json"))[1])["pools"][0]["worker"]["worker"] == "ta-1"
        assert "NVIDIA L40S, 48 GiB" in (await run_command("system"))[1]

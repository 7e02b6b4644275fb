"""Where the time of jobs and engines went: in records, answers and metrics."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.api.job_view import timings_view
from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import KEY, running_api
from tests.support.graphs import EMPTY, saved, slow
from tests.support.workbench import workbench

pytestmark = pytest.mark.anyio


async def test_a_job_shows_where_its_time_went(tmp_path: Path) -> None:
    """The times of a job and of its nodes add up, and its GPU is not charged for the uploads."""
    graph = {"1": EMPTY, "2": slow(5), "3": saved("2")}
    async with workbench(tmp_path) as bench:
        first, second = [await bench.run(graph) for _ in range(2)]
    times, view = first.times, timings_view(first)
    assert times is not None
    assert [(node.node_id, node.class_type, node.cached) for node in times.nodes] == [
        ("1", "EmptyImage", False),
        ("2", "LiteSlowSteps", False),
        ("3", "SaveImage", False),
    ]
    assert 0.4 < times.nodes[1].seconds <= times.executed_s
    assert None not in (view.queued_s, view.committed_s, view.gpu_idle_s)
    phases = (view.queued_s, view.staged_s, view.executed_s, view.uploaded_s, view.committed_s)
    assert first.completed_at is not None
    whole = (first.completed_at - first.created_at).total_seconds()
    assert sum(phase or 0.0 for phase in phases) == pytest.approx(whole, abs=0.1)
    assert first.usage[0].seconds == pytest.approx(times.held_s, abs=0.01)
    assert second.times is not None
    assert {node.node_id for node in second.times.nodes if node.cached} == {"1", "2"}


async def test_system_and_metrics_show_how_long_engines_computed(tmp_path: Path, clock: ManualClock) -> None:
    """The times that workers report are summed for each pool, those of a worker of long ago excepted."""
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY, metrics=True)) as api:
        await api.stores.engine_use.publish("default", "w-of-old", computed_s=1000.0, idle_s=0.0)
        clock.set(clock.now() + timedelta(days=2))
        for worker in ("w1", "w2"):
            await api.stores.engine_use.publish("default", worker, computed_s=30.0, idle_s=10.0)
        pool = (await api.client.get("/v1/system")).json()["pools"][0]
        metrics = (await api.client.get("/metrics")).text
    assert pool["engine_use"] == {"workers": 2, "computed_s": 60.0, "idle_s": 20.0, "computed_share": 0.75}
    assert 'comfyui_modal_engine_seconds{pool="default",state="computing"} 60.0' in metrics
    assert 'comfyui_modal_engine_computed_share{pool="default"} 0.75' in metrics


async def test_a_worker_publishes_how_long_its_engine_computed(tmp_path: Path) -> None:
    """A worker reports the seconds in which its engine ran prompts, at most once a minute."""
    clock = ManualClock(datetime(2026, 11, 23, tzinfo=UTC))
    async with workbench(tmp_path, clock=clock) as bench:
        await bench.run({"1": EMPTY, "2": slow(5), "3": saved("2")})
        clock.set(clock.now() + timedelta(minutes=2))
        await bench.serve_one()
        use = await bench.stores.engine_use.sum("default")
    assert use.workers == 1
    assert use.computed_s >= 0.4
    assert use.idle_s > 0

"""Claimed jobs on a real engine process that are cancelled, time out, are fenced, released or given up."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.clock import SystemClock
from storage.jobs.record import Status
from tests.support.graphs import EMPTY, node, saved, slow
from tests.support.workbench import Bench, quick_policy, workbench
from workers import loop
from workers.comfy.engine import PromptQueue
from workers.comfy.host import RunningEngine
from workers.loop import WorkerLoop
from workers.outputs.uploads import UploadPolicy
from workers.publisher import WorkerIdentity

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """One worker for the whole file, so each test also shows that the worker survived the previous job."""
    async with workbench(tmp_path_factory.mktemp("engine")) as bench:
        yield bench


async def test_a_cancelled_job_stops(bench: Bench) -> None:
    """Cancelling a job interrupts its engine and keeps finished outputs."""
    record = await bench.submit({"1": EMPTY, "2": saved(), "3": slow(), "4": saved("3")})
    running = asyncio.create_task(bench.serve_one())
    await bench.until(record.job_id, lambda r: r.progress_details.step)
    now = SystemClock().now()
    await bench.jobs.evolve("default", record.job_id, lambda r: r.cancel(now=now))
    async with asyncio.timeout(5):
        await running
    ended = (await bench.jobs.read("default", record.job_id)).record
    assert (ended.status, ended.error) == (Status.FAILED, "Cancelled by user")
    assert [output.node_id for output in ended.outputs] == ["2"]


async def test_a_job_that_ignores_interrupts_replaces_the_engine(bench: Bench) -> None:
    """A cancelled job that ignores interrupts ends as cancelled, and the next job runs on another engine."""
    graph = {"1": EMPTY, "2": node("LiteHang", image=["1", 0], seconds=600.0), "3": saved("2")}
    record = await bench.submit(graph)
    running = asyncio.create_task(bench.serve_one())
    await bench.until(record.job_id, lambda r: r.progress_details.current_node == "2")
    now = SystemClock().now()
    await bench.jobs.evolve("default", record.job_id, lambda r: r.cancel(now=now))
    await running
    assert (await bench.jobs.read("default", record.job_id)).record.error == "Cancelled by user"
    assert (await bench.run({"1": EMPTY, "2": saved()})).status is Status.COMPLETED


async def test_a_job_that_takes_too_long_is_stopped(bench: Bench) -> None:
    """A job is stopped after its own timeout_s."""
    record = await bench.run({"1": EMPTY, "2": slow(), "3": saved("2")}, timeout_s=1)
    assert record.error_detail is not None
    assert record.error_detail.code == "timeout"


async def test_an_engine_whose_jobs_time_out_in_a_row_is_replaced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is restarted after jobs in a row have timed out on it for long, and not if one between them ended."""
    monkeypatch.setattr(loop, "MOST_TIMED_OUT_S", 3)
    endless, short = {"1": EMPTY, "2": slow(600), "3": saved("2")}, {"1": EMPTY, "2": saved()}
    engines = []
    for graph, timeout_s in ((short, 60), (endless, 1), (short, 60), (endless, 1), (endless, 1), (endless, 1)):
        await bench.run(graph, timeout_s=timeout_s)
        engines.append(bench.host.pid)
    assert engines[:5] == engines[:1] * 5
    assert engines[5] not in (engines[0], None)


async def test_a_fenced_attempt_writes_nothing(bench: Bench) -> None:
    """An attempt does not change the record after another attempt has taken over the job."""
    record = await bench.submit({"1": EMPTY, "2": slow(), "3": saved("2")})
    running = asyncio.create_task(bench.serve_one())
    await bench.until(record.job_id, lambda r: r.progress_details.step)
    now = SystemClock().now()
    taken = await bench.jobs.evolve(
        "default",
        record.job_id,
        lambda r: r.release(attempt=1, now=now).claim(worker="other", now=now, lease_s=600),
    )
    await running
    assert (await bench.jobs.read("default", record.job_id)).record == taken.record


@pytest.mark.parametrize("how", ["stopped", "cancelled"])
async def test_a_stopped_worker_releases_its_job(bench: Bench, how: str) -> None:
    """The job is queued and can be claimed when `serve` returns, however it ends."""
    record = await bench.submit({"1": EMPTY, "2": slow(), "3": saved("2")})
    stop = asyncio.Event()
    serving = asyncio.create_task(bench.worker.serve(stop))
    await bench.until(record.job_id, lambda r: r.progress_details.step)
    if how == "stopped":
        stop.set()
    else:
        serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    back = (await bench.jobs.read("default", record.job_id)).record
    assert (back.status, back.lease) == (Status.QUEUED, None)
    claimed = await bench.stores.queue.claim("default", "other")
    assert claimed is not None
    assert claimed.record.job_id == record.job_id
    await bench.host.restart()


async def test_a_prompt_that_its_worker_gives_up_is_withdrawn(tmp_path: Path) -> None:
    """The prompt of a job that its worker gives up is stopped, so that it takes no time from the next job."""
    policy = replace(quick_policy(), uploads=UploadPolicy(max_outputs=1))
    async with workbench(tmp_path, policy=policy) as bench:
        graph = {"1": EMPTY, "2": saved(prefix="a"), "3": saved(prefix="b"), "4": slow(600), "5": saved("4", "c")}
        failed = await bench.run(graph)
        assert failed.error_detail is not None
        assert failed.error_detail.code == "output_failed"
        assert await bench.host.engine.queue() == PromptQueue()
        assert (await bench.run({"1": EMPTY, "2": saved()}, timeout_s=10)).status is Status.COMPLETED


@pytest.mark.parametrize("how", ["stopped", "fenced"])
async def test_a_prompt_in_a_foreign_comfyui_is_withdrawn(bench: Bench, how: str) -> None:
    """The prompt in a ComfyUI that is used by URL, and not restarted with the worker, is withdrawn."""
    host = RunningEngine(bench.host.engine.url)
    identity = WorkerIdentity("guest", "default", queue_poll_s=0.2)
    worker = WorkerLoop(identity, host, bench.stores, quick_policy())
    await worker.start()
    record = await bench.submit({"1": EMPTY, "2": slow(600), "3": saved("2")})
    stop = asyncio.Event()
    serving = asyncio.create_task(worker.serve(stop))
    await bench.until(record.job_id, lambda r: r.progress_details.step)
    if how == "fenced":
        now = SystemClock().now()
        await bench.jobs.evolve(
            "default",
            record.job_id,
            lambda r: r.release(attempt=1, now=now).claim(worker="other", now=now, lease_s=600),
        )
        async with asyncio.timeout(10):
            while (await bench.host.engine.queue()).running:  # noqa: ASYNC110  the engine's queue has no Event
                await asyncio.sleep(0.05)
    stop.set()
    await serving
    assert await bench.host.engine.queue() == PromptQueue()
    await worker.stop()
    now = SystemClock().now()
    await bench.jobs.evolve("default", record.job_id, lambda r: r.cancel(now=now))


async def test_a_frozen_engine_does_not_delay_a_cancelled_job(bench: Bench) -> None:
    """A cancelled job ends in time although its frozen engine answers nothing."""
    record = await bench.submit({"1": EMPTY, "2": slow(600), "3": saved("2")})
    running = asyncio.create_task(bench.serve_one())
    await bench.until(record.job_id, lambda r: r.progress_details.step)
    assert bench.host.pid is not None
    (engine,) = psutil.Process(bench.host.pid).children()
    engine.suspend()
    await asyncio.sleep(1.5)  # a request for its history is in progress
    now = SystemClock().now()
    await bench.jobs.evolve("default", record.job_id, lambda r: r.cancel(now=now))
    async with asyncio.timeout(20):
        ended = await bench.until(record.job_id, lambda r: r.status.is_terminal)
    assert (ended.error, ended.completed_at is not None) == ("Cancelled by user", True)
    assert ended.completed_at is not None
    assert ended.completed_at - now < timedelta(seconds=8)
    await running
    assert (await bench.run({"1": EMPTY, "2": saved()})).status is Status.COMPLETED


class SlowUploads(MemoryObjectStore):
    async def upload_file(self, key: str, path: Path, *, content_type: str, size: int | None = None) -> None:
        await asyncio.sleep(60)


@pytest.mark.parametrize("why", ["timeout", "cancelled"])
async def test_slow_uploads_do_not_hold_the_gpu(tmp_path: Path, why: str) -> None:
    """A timeout or a cancellation also ends a job whose graph is done and whose output is being uploaded."""
    async with workbench(tmp_path, objects=SlowUploads(SystemClock())) as bench:
        record = await bench.submit({"1": EMPTY, "2": saved()}, timeout_s=2 if why == "timeout" else 600)
        running = asyncio.create_task(bench.serve_one())
        if why == "cancelled":
            await bench.until(record.job_id, lambda r: r.progress_details.nodes_completed == 2)
            now = SystemClock().now()
            await bench.jobs.evolve("default", record.job_id, lambda r: r.cancel(now=now))
        async with asyncio.timeout(20):
            await running
        ended = (await bench.jobs.read("default", record.job_id)).record
        assert ended.error_detail is not None
        assert (ended.error_detail.code, ended.outputs) == (why, ())

"""Jobs of one worker that overlap: one executes, earlier ones are uploaded, and the next one is prepared."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from infra.compose.worker import overlap_policy
from infra.settings import Settings
from storage.bucket.memory import MemoryObjectStore
from storage.clock import SystemClock
from storage.errors import StorageError
from storage.jobs.record import JobRecord, Status
from tests.support.api_server import PNG
from tests.support.graphs import EMPTY, node, saved, slow
from tests.support.workbench import Bench, quick_policy, workbench
from workers.comfy.process import EngineProcess
from workers.comfy.spec import EngineSpec
from workers.isolation import IsolationPolicy
from workers.lookahead import OverlapPolicy

pytestmark = pytest.mark.anyio

QUICK = {"1": EMPTY, "2": saved()}
LONG = {"1": EMPTY, "2": slow(600), "3": saved("2")}
WITH_FILE = {"1": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}, "2": saved()}


class HeldStore(MemoryObjectStore):
    """A store on which uploads of some jobs wait, or fail."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.held: dict[str, asyncio.Event] = {}
        self.failing: set[str] = set()
        self.downloads: list[str] = []

    async def upload_file(self, key: str, path: Path, *, content_type: str, size: int | None = None) -> None:
        for job_id, event in self.held.items():
            if job_id in key:
                await event.wait()
        if any(job_id in key for job_id in self.failing):
            raise StorageError("refused")
        await super().upload_file(key, path, content_type=content_type, size=size)

    async def download_file(self, key: str, path: Path) -> None:
        await super().download_file(key, path)
        self.downloads.append(key)


@dataclass
class Overlap:
    """A worker that serves; `folder` has its engine's folders."""

    bench: Bench
    objects: HeldStore
    folder: Path
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def held(self, graph: dict[str, Any]) -> tuple[JobRecord, asyncio.Event]:
        """Submit a job that runs first, and whose uploads wait for the event."""
        job_id = str(uuid.uuid4())
        event = self.objects.held[job_id] = asyncio.Event()
        return await self.bench.submit(graph, job_id=job_id, priority=1), event

    async def read(self, record: JobRecord) -> JobRecord:
        return (await self.bench.jobs.read("default", record.job_id)).record

    async def ended(self, record: JobRecord) -> JobRecord:
        return await self.bench.until(record.job_id, lambda found: found.status.is_terminal)

    async def running(self, record: JobRecord) -> JobRecord:
        """Wait until a node of the job runs."""
        return await self.bench.until(record.job_id, lambda found: found.progress_details.current_node)

    async def cancel(self, record: JobRecord) -> None:
        await self.bench.jobs.evolve("default", record.job_id, lambda r: r.cancel(now=SystemClock().now()))

    async def with_file(self, **fields: Any) -> JobRecord:
        """Submit a job with an input file."""
        medium = await self.bench.input_file("photo.png", PNG)
        return await self.bench.submit(WITH_FILE, input_files=(medium,), **fields)

    def private_files(self) -> list[Path]:
        return [path for path in (self.folder / "private").rglob("*") if path.is_file()]

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110  a folder has no Event
                await asyncio.sleep(0.02)


@asynccontextmanager
async def overlapping(
    folder: Path, overlap: OverlapPolicy | None = None, *, isolation: IsolationPolicy | None = None
) -> AsyncIterator[Overlap]:
    def process(spec: EngineSpec) -> EngineProcess:
        return EngineProcess(replace(spec, isolation=isolation or spec.isolation))

    objects = HeldStore()
    async with workbench(folder, objects, quick_policy(), process=process, overlap=overlap) as bench:
        on = Overlap(bench, objects, folder)
        serving = asyncio.create_task(bench.worker.serve(on.stop))
        try:
            yield on
        finally:
            on.stop.set()
            for event in objects.held.values():
                event.set()
            await serving


async def test_a_job_runs_while_earlier_outputs_are_uploaded(tmp_path: Path) -> None:
    """A job completes while the outputs of the one before it are still being uploaded, and each has its own log."""
    async with overlapping(tmp_path) as on:
        first, uploading = await on.held(QUICK)
        second = await on.bench.submit(QUICK)
        ended = await on.ended(second)
        meanwhile = await on.read(first)
        uploading.set()
        late = await on.ended(first)
        logs = [await on.bench.stores.logs.read("default", one.job_id, 1) for one in (first, second)]
    assert (ended.status, meanwhile.status, late.status) == (Status.COMPLETED, Status.RUNNING, Status.COMPLETED)
    assert [len(log.split("got prompt")) - 1 for log in logs] == [1, 1]


async def test_the_next_job_is_prepared_and_not_claimed(tmp_path: Path) -> None:
    """While a job runs, the files of the next one are fetched, and its record is unchanged: any worker may claim it."""
    async with overlapping(tmp_path) as on:
        first = await on.bench.submit(LONG)
        await on.running(first)
        second = await on.with_file()
        await on.until(on.private_files)
        assert (await on.read(second)) == second
        claimed = await on.bench.stores.queue.claim("default", "other")
        assert claimed is not None
        assert claimed.record.job_id == second.job_id
        third = await on.bench.submit(QUICK)
        await on.cancel(first)
        assert (await on.ended(third)).status is Status.COMPLETED
        assert (await on.read(second)).attempt == 1
        assert on.private_files() == []


async def test_a_prepared_job_needs_no_second_download(tmp_path: Path) -> None:
    """A prepared job runs with the files that were fetched before its claim."""
    async with overlapping(tmp_path) as on:
        first = await on.bench.submit(LONG)
        await on.running(first)
        second = await on.with_file()
        await on.until(on.private_files)
        await on.cancel(first)
        assert (await on.ended(second)).status is Status.COMPLETED
        assert len(on.objects.downloads) == 1


async def test_a_better_job_overtakes_the_prepared_one(tmp_path: Path) -> None:
    """A job of higher priority that arrives while another one is prepared runs first."""
    async with overlapping(tmp_path) as on:
        first = await on.bench.submit(LONG)
        await on.running(first)
        usual = await on.with_file()
        await on.until(on.private_files)
        better = await on.bench.submit(QUICK, priority=5)
        await on.until(lambda: not on.private_files())
        await on.cancel(first)
        ends = [await on.ended(one) for one in (usual, better)]
    assert [end.status for end in ends] == [Status.COMPLETED] * 2
    assert ends[1].started_at is not None
    assert ends[0].started_at is not None
    assert ends[1].started_at < ends[0].started_at


async def test_a_prepared_job_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    """A prepared job that is cancelled is not run, and its files are removed."""
    async with overlapping(tmp_path) as on:
        first = await on.bench.submit(LONG)
        await on.running(first)
        second = await on.with_file()
        await on.until(on.private_files)
        await on.cancel(second)
        await on.cancel(first)
        third = await on.bench.submit(QUICK)
        assert (await on.ended(third)).status is Status.COMPLETED
        cancelled = await on.read(second)
        assert (cancelled.attempt, cancelled.error_code) == (0, "cancelled")
        assert on.private_files() == []


async def test_an_engine_crash_does_not_touch_earlier_outputs(tmp_path: Path) -> None:
    """The outputs of a job are delivered although the engine crashes in the next job and is restarted."""
    crash = {"1": EMPTY, "2": node("LiteRaise", image=["1", 0], kind="crash"), "3": saved("2")}
    async with overlapping(tmp_path) as on:
        first, uploading = await on.held(QUICK)
        second, third = await on.bench.submit(crash), await on.bench.submit(QUICK)
        crashed, after = await on.ended(second), await on.ended(third)
        uploading.set()
        ended = await on.ended(first)
        body = await on.objects.get(ended.outputs[0].key)
    assert (crashed.status, crashed.error_code) == (Status.FAILED, "engine_unavailable")
    assert (after.status, ended.status) == (Status.COMPLETED, Status.COMPLETED)
    assert body.body.startswith(b"\x89PNG")


async def test_a_failed_upload_does_not_touch_the_next_job(tmp_path: Path) -> None:
    """A job whose outputs cannot be stored fails, and the one that runs meanwhile completes on the same engine."""
    async with overlapping(tmp_path) as on:
        pid = on.bench.host.pid
        job_id = str(uuid.uuid4())
        on.objects.failing.add(job_id)
        first = await on.bench.submit(QUICK, job_id=job_id, priority=1)
        second = await on.bench.submit(QUICK | {"3": slow(5), "4": saved("3")})
        ends = [await on.ended(one) for one in (first, second)]
        assert on.bench.host.pid == pid
    assert [end.error_code for end in ends] == ["storage_failed", None]


async def test_a_job_lost_during_its_uploads_does_not_touch_the_next_one(tmp_path: Path) -> None:
    """A job that is fenced while its outputs are uploaded writes nothing, and the next one keeps its engine."""
    async with overlapping(tmp_path) as on:
        pid = on.bench.host.pid
        first, _ = await on.held(QUICK)
        second = await on.bench.submit(LONG)
        await on.running(second)
        now = SystemClock().now()
        taken = await on.bench.jobs.evolve(
            "default",
            first.job_id,
            lambda r: r.release(attempt=1, now=now).claim(worker="other", now=now, lease_s=600),
        )
        await on.until(lambda: not on.private_files())
        assert on.bench.host.pid == pid
        assert (await on.read(first)) == taken.record
        assert (await on.read(second)).status is Status.RUNNING
        await on.cancel(second)


async def test_a_stopped_worker_finishes_uploads_and_gives_the_next_job_back(tmp_path: Path) -> None:
    """A worker that stops commits the job whose outputs it uploads, and releases the one that it executes."""
    async with overlapping(tmp_path) as on:
        first, uploading = await on.held(QUICK)
        second = await on.bench.submit(LONG)
        await on.running(second)
        on.stop.set()
        await on.bench.until(second.job_id, lambda found: found.status is Status.QUEUED)
        uploading.set()
        assert (await on.ended(first)).status is Status.COMPLETED
        assert (await on.read(second)).given_back == 1


async def test_a_stopped_worker_releases_a_job_whose_upload_hangs(tmp_path: Path) -> None:
    """A worker that stops releases a job whose outputs cannot be uploaded in time."""
    async with overlapping(tmp_path) as on:
        first, _ = await on.held(QUICK)
        second = await on.bench.submit(LONG)
        await on.running(second)
        on.stop.set()
        for record in (first, second):
            back = await on.bench.until(record.job_id, lambda found: found.status is Status.QUEUED)
            assert back.given_back == 1


@pytest.mark.parametrize("limit", [OverlapPolicy(ahead_bytes=0), OverlapPolicy(free_bytes=1 << 62)])
async def test_no_file_is_fetched_ahead_beyond_the_limits(tmp_path: Path, limit: OverlapPolicy) -> None:
    """Files above the limit, or beyond the free space, are fetched only for a claimed job."""
    async with overlapping(tmp_path, limit) as on:
        first = await on.bench.submit(LONG)
        await on.running(first)
        second = await on.with_file()
        await asyncio.sleep(0.5)
        assert on.objects.downloads == []
        await on.cancel(first)
        assert (await on.ended(second)).status is Status.COMPLETED


async def test_a_limit_of_no_conclusions_ends_the_overlap(tmp_path: Path) -> None:
    """With a limit of 0 a job begins only once the one before it was committed."""
    async with overlapping(tmp_path, OverlapPolicy(concluding=0)) as on:
        first, uploading = await on.held(QUICK)
        second = await on.bench.submit(QUICK)
        await on.bench.until(first.job_id, lambda found: found.progress_details.nodes_completed == 2)
        await asyncio.sleep(0.5)
        assert (await on.read(second)).status is Status.QUEUED
        uploading.set()
        assert (await on.ended(second)).status is Status.COMPLETED


async def test_strangers_jobs_do_not_overlap_without_isolation(tmp_path: Path) -> None:
    """Where nothing isolates the engine, a stranger's graph runs neither beside the files of the next job nor beside
    the outputs of the one before it."""
    async with overlapping(tmp_path, isolation=IsolationPolicy("off")) as on:
        first, uploading = await on.held(QUICK)
        second = await on.bench.submit(LONG, graphs="strangers")
        await on.bench.until(first.job_id, lambda found: found.progress_details.nodes_completed == 2)
        await asyncio.sleep(0.5)
        assert (await on.read(second)).status is Status.QUEUED
        uploading.set()
        await on.running(second)
        await on.with_file()
        await asyncio.sleep(0.5)
        assert on.objects.downloads == []
        await on.cancel(second)


def test_the_settings_limit_the_overlap() -> None:
    """The settings are those of the overlap, with the same defaults."""
    assert overlap_policy(Settings(bucket="x")) == OverlapPolicy()

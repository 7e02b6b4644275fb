"""A worker whose disk is full claims no job, and blames neither the bucket nor the job."""

import asyncio
import gc
import logging
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.compose.worker import attempt_policy, overlap_policy
from infra.settings import Settings
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.errors import LocalDiskFull
from storage.jobs.record import JobRecord, Status
from storage.keys import DEFAULT_POOL
from storage.launcher import MemoryLauncher
from storage.pools.engine_starts import EngineStartStore, StartPolicy
from storage.tickets import Tickets
from tests.support.api_server import PNG
from tests.support.disks import fill, mounted
from tests.support.graphs import EMPTY, saved
from tests.support.records import a_job
from tests.support.workbench import ENGINE_ENVIRONMENT, Bench, quick_policy, serve_once, workbench
from workers.comfy.engine import FileRef
from workers.comfy.files import FolderFiles
from workers.comfy.process import EngineProcess
from workers.comfy.spec import EngineFolders, EngineSpec
from workers.drain import Drain
from workers.errors import WorkerDiskFull
from workers.loop import RETRY_S
from workers.outputs.uploads import OutputUploads, UploadPolicy
from workers.starts import CountedStarts
from workflows.messages import Executed

pytestmark = pytest.mark.anyio

MIB = 1024**2
SIZE_MIB = 32
FLOOR = 8 * MIB
MORE_THAN_ANY_DISK = 2**53 - 1
QUICK = {"1": EMPTY, "2": saved()}
WITH_FILE = {"1": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}, "2": saved()}
TEXT = {"1": {"class_type": "LiteEmit", "inputs": {"ui": '{"text": ["words"]}', "write": ""}}}


@pytest.fixture
def disk() -> Iterator[Path]:
    with mounted(SIZE_MIB) as folder:
        yield folder


@pytest.fixture
async def bench(disk: Path) -> AsyncIterator[Bench]:
    """A worker that needs `FLOOR` bytes on its disk."""
    async with workbench(disk / "engine", policy=replace(quick_policy(max_attempts=3), min_free_bytes=FLOOR)) as bench:
        yield bench


@pytest.fixture
async def careless(disk: Path) -> AsyncIterator[Bench]:
    """A worker that needs no free space on its disk."""
    async with workbench(disk / "engine", policy=quick_policy(max_attempts=3)) as bench:
        yield bench


async def with_file(bench: Bench, body: bytes = PNG) -> JobRecord:
    return await bench.submit(WITH_FILE, input_files=(await bench.input_file("photo.png", body),))


async def read(bench: Bench, record: JobRecord) -> JobRecord:
    return (await bench.jobs.read("default", record.job_id)).record


async def test_a_worker_without_free_space_claims_nothing(tmp_path: Path) -> None:
    """With less free space than required, the ticket fails and its job stays queued, without an attempt."""
    async with workbench(tmp_path, policy=replace(quick_policy(), min_free_bytes=MORE_THAN_ANY_DISK)) as bench:
        record = await bench.submit(QUICK)
        tickets = Tickets(MemoryLauncher(), bench.objects)
        with pytest.raises(WorkerDiskFull, match="this worker's disk is full"):
            await Drain(bench.worker, tickets, DEFAULT_POOL, limit_s=60).run()
        assert await read(bench, record) == record


async def test_a_worker_waits_for_free_space(bench: Bench, disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A permanent worker logs the full disk once, and runs the queued jobs in their first attempt when it has space."""
    stop = asyncio.Event()
    ballast = fill(disk)
    records = [await with_file(bench) for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        serving = asyncio.create_task(bench.worker.serve(stop))
        await asyncio.sleep(2.5 * RETRY_S)
        assert [await read(bench, record) for record in records] == records
        ballast.unlink()
        ended = [await bench.until(record.job_id, lambda found: found.status.is_terminal) for record in records]
        stop.set()
        await serving
    assert {(record.status, record.attempt) for record in ended} == {(Status.COMPLETED, 1)}
    assert caplog.text.count("the worker has to wait") == 1


async def test_the_setting_applies_to_claims_and_to_files_fetched_ahead() -> None:
    """The minimum of free space holds before a claim, and is left by the input files of the job after it."""
    settings = Settings(bucket="b", min_free_bytes=MORE_THAN_ANY_DISK)
    assert attempt_policy(settings).min_free_bytes == MORE_THAN_ANY_DISK
    assert overlap_policy(settings).free_bytes == MORE_THAN_ANY_DISK


async def test_files_of_earlier_jobs_are_removed_instead_of_waited_for(bench: Bench, disk: Path) -> None:
    """If the outputs of the last job fill the disk, the next job runs."""
    await bench.run(QUICK)
    (disk / "engine" / "output" / "film.mp4").write_bytes(bytes((SIZE_MIB - 4) * MIB))
    assert (await bench.run(QUICK)).status is Status.COMPLETED


async def test_a_disk_that_fills_up_does_not_use_up_the_attempts(careless: Bench, disk: Path) -> None:
    """An input that does not fit returns its job to the queue, and the worker claims none until it can write again."""
    record = await with_file(careless)
    ballast = fill(disk)
    await serve_once(careless.worker)
    queued = await read(careless, record)
    assert (queued.status, queued.attempt) == (Status.QUEUED, 1)
    assert queued.last_fault is not None
    assert queued.last_fault.code == "worker_disk_full"
    assert "this worker's disk is full" in queued.last_fault.message
    for _ in range(3):
        with pytest.raises(WorkerDiskFull):
            await serve_once(careless.worker)
    assert (await read(careless, record)).attempt == 1
    ballast.unlink()
    ended = await careless.serve_one()
    assert ended is not None
    assert (ended.status, ended.attempt) == (Status.COMPLETED, 2)


async def test_a_job_that_never_fits_on_the_disk_fails(careless: Bench) -> None:
    """A job whose input is larger than the disk ends after its attempts, and the next job runs."""
    record = await with_file(careless, PNG + bytes(SIZE_MIB * MIB))
    for _ in range(3):
        assert (await read(careless, record)).status is Status.QUEUED
        await serve_once(careless.worker)
    failed = await read(careless, record)
    assert (failed.status, failed.attempt, failed.error_code) == (Status.FAILED, 3, "worker_disk_full")
    assert (await careless.run(QUICK)).status is Status.COMPLETED


@pytest.mark.real_bucket("each store writes the local file by itself")
async def test_a_full_local_disk_is_not_the_buckets_fault(objects: ObjectStore, disk: Path) -> None:
    """A download to a full disk says so instead of reporting the bucket as unavailable."""
    await objects.put("x", bytes(MIB))
    fill(disk)
    with pytest.raises(LocalDiskFull, match="No space left"):
        await objects.download_file("x", disk / "x")
    with warnings.catch_warnings():
        # The SDK leaves the connection of a download that it could not write to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


async def test_inputs_and_outputs_that_do_not_fit(tmp_path: Path, disk: Path) -> None:
    """Moving an input to a full disk and taking an output there fail because of the disk, and not of the job."""
    folders = {name: tmp_path / name for name in ("output", "temp")}
    for folder in folders.values():
        folder.mkdir()
    files = FolderFiles(input_dir=disk, output_dir=folders["output"], temp_dir=folders["temp"])
    (tmp_path / "photo.png").write_bytes(bytes(MIB))
    (folders["output"] / "made.png").write_bytes(bytes(MIB))
    fill(disk)
    with pytest.raises(WorkerDiskFull, match=r"photo\.png"):
        await files.stage("photo.png", tmp_path / "photo.png")
    with pytest.raises(WorkerDiskFull, match=r"made\.png"):
        await files.fetch(FileRef("made.png", "", "output"), disk)


async def test_values_are_stored_although_the_systems_disk_is_full(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that a node returns needs no space in the system's folder for temporary files."""
    async with workbench(tmp_path) as bench:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        fill(disk)
        done = await bench.run(TEXT)
    assert [output.text for output in done.outputs] == ["words"], done.error_detail


async def test_a_value_that_does_not_fit_on_the_workers_disk(careless: Bench, disk: Path) -> None:
    """A value that cannot be written to the worker's own disk fails because of the disk."""
    uploads = OutputUploads(careless.host.engine, careless.objects, a_job(attempt=1), UploadPolicy())
    fill(disk)
    await uploads.add(Executed("prompt", "1", "1", {"text": ["words" * MIB]}))
    with pytest.raises(WorkerDiskFull, match=r"text_output_1\.txt"):
        await uploads.all()
    await uploads.close()


async def test_a_start_on_a_full_disk_does_not_count(disk: Path, objects: ObjectStore, clock: ManualClock) -> None:
    """An engine that cannot be started because the disk is full does not fail the jobs that wait for it."""
    fill(disk)
    folders = EngineFolders(disk / "other")
    engine = EngineProcess(EngineSpec.lite(folders=folders, environment=ENGINE_ENVIRONMENT))
    store = EngineStartStore(objects, clock, StartPolicy(max_failures=1))
    starts = CountedStarts(store, DEFAULT_POOL, "w1", str)
    with pytest.raises(WorkerDiskFull):
        await starts.run(engine.start)
    await engine.stop()
    assert (await store.state(DEFAULT_POOL)).paused_until is None


async def test_an_engine_starts_although_earlier_outputs_fill_the_disk(disk: Path) -> None:
    """The outputs of an engine that died on a full disk are removed before the next one starts."""
    folders = EngineFolders(disk / "engine")
    folders.make()
    fill(folders.output)
    engine = EngineProcess(EngineSpec.lite(folders=folders, environment=ENGINE_ENVIRONMENT))
    await engine.start()
    assert engine.is_alive()
    await engine.stop()

"""Stores of uploads, run times and engine information, on the in-memory store and the real S3 server."""

import asyncio
import gzip
from datetime import timedelta

import pytest

from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.errors import EngineInfoTooLarge, FileRefused, UploadIncomplete, UploadNotFound
from storage.jobs.store import JobStore
from storage.jobs.uploads import UploadStore
from storage.pools.engine_info import (
    FILES_LIFE,
    INFO_LIFE,
    MAX_INFO_BYTES,
    MAX_INFO_VALUES,
    EngineInfo,
    EngineInfoStore,
)
from storage.pools.runtimes import RuntimeStore
from storage.signal import MemorySignal
from workflows.graph import parse_graph

pytestmark = pytest.mark.anyio


@pytest.mark.real_bucket("bytes that a client puts by URL")
async def test_an_upload_is_usable_once_its_bytes_are_stored(objects: ObjectStore, clock: ManualClock) -> None:
    """An upload is usable once its bytes have the announced length and type, and only by its tenant."""
    uploads = UploadStore(JobStore(objects, clock, MemorySignal()), objects, clock, expires_s=60)
    gif = b"GIF89a"
    record, signed, _ = await uploads.create("default", size_bytes=6, content_type="image/png", filename="a.png")
    assert signed.method == "PUT"
    with pytest.raises(UploadIncomplete):
        await uploads.resolve("default", record.upload_id)
    for wrong, error in ((gif + b"1", UploadIncomplete), (b"OggS\0\2", UploadIncomplete), (b"123456", FileRefused)):
        await objects.put(record.key, wrong, content_type="image/png")
        with pytest.raises(error):
            await uploads.resolve("default", record.upload_id)
    await objects.put(record.key, gif, content_type="image/png")
    assert await uploads.resolve("default", record.upload_id) == record
    for tenant, upload_id in (("other", record.upload_id), ("default", "unknown"), ("default", "../x")):
        with pytest.raises(UploadNotFound):
            await uploads.resolve(tenant, upload_id)


async def test_the_estimate_is_the_median_of_recent_runs(objects: ObjectStore, clock: ManualClock) -> None:
    """The estimate is the median of the recent run times of a workflow's shape, and unknown without any."""
    runtimes = RuntimeStore(objects, clock)
    assert await runtimes.estimate("default", "shape") is None
    for seconds in [1000.0] * 5 + [10.0, 12.0, 14.0] * 7:
        await runtimes.record("default", "shape", seconds)
    assert await RuntimeStore(objects, clock).estimate("default", "shape") == 12


async def test_the_size_of_engine_information_is_bounded(clock: ManualClock) -> None:
    """Engine information that the API cannot read in a fraction of a second is neither published nor read."""
    objects = MemoryObjectStore(clock)
    info = EngineInfoStore(objects, clock)
    with pytest.raises(EngineInfoTooLarge):
        await info.publish("default", {"SaveImage": {"description": "x" * MAX_INFO_BYTES}})
    await objects.put(keys.engine_info("default"), gzip.compress(b" " * (MAX_INFO_BYTES + 1)))
    assert not (await info.catalogue("default")).is_known
    with pytest.raises(EngineInfoTooLarge):
        await info.publish("default", {"Many": {"choices": [{}] * MAX_INFO_VALUES}})


async def test_requests_in_flight_share_one_reading_of_the_engine(clock: ManualClock) -> None:
    """Any number of concurrent requests read and parse new engine information once."""
    objects = MemoryObjectStore(clock)
    info = EngineInfoStore(objects, clock)
    for classes in (1, 2):
        await EngineInfoStore(objects, clock).publish("default", {f"Class{n}": {} for n in range(classes)})
        clock.set(clock.now() + timedelta(seconds=61))
        objects.requests.clear()
        found = await asyncio.gather(*(info.published("default") for _ in range(100)))
        assert objects.requests["GET"] == 1
        assert len({id(one) for one in found}) == 1


async def test_engine_information_is_published(objects: ObjectStore, clock: ManualClock) -> None:
    """Readers get published engine information, and changes of it after a while."""
    info = EngineInfoStore(objects, clock)
    assert not (await info.catalogue("default")).is_known
    await EngineInfoStore(objects, clock).publish("default", {"SaveImage": {}})
    clock.set(clock.now() + timedelta(seconds=3))
    assert await refusals(info) == ["unknown-node-class"]
    await EngineInfoStore(objects, clock).publish("default", LOADER, comfyui_version="0.33.0")
    assert await refusals(info) == ["unknown-node-class"]
    clock.set(clock.now() + timedelta(seconds=61))
    assert await refusals(info) == ["missing-model"]
    known = EngineInfo.from_bytes((await objects.get(keys.engine_info("default"))).body)
    assert (known.object_info, known.comfyui_version, known.files_listed) == (LOADER, "0.33.0", True)
    assert not (await info.catalogue("another")).is_known


async def test_engine_information_is_parsed_once_per_publication(objects: ObjectStore, clock: ManualClock) -> None:
    """Readers get the same parsed catalogue until other engine information is published."""
    info = EngineInfoStore(objects, clock)
    assert (await info.catalogue("default")).check(MODEL).faults == ()
    await info.publish("default", LOADER)
    clock.set(clock.now() + timedelta(seconds=3))
    first = await info.catalogue("default")
    clock.set(clock.now() + timedelta(seconds=61))
    assert await info.catalogue("default") is first
    await info.publish("default", LOADER)
    clock.set(clock.now() + timedelta(seconds=61))
    assert await info.catalogue("default") is not first


async def test_a_list_of_models_expires(objects: ObjectStore, clock: ManualClock) -> None:
    """A recent list of models refuses jobs, but not an old list, nor after models were added or with none mounted."""
    info = EngineInfoStore(objects, clock)
    await info.publish("default", LOADER)
    assert await refusals(info) == ["missing-model"]
    clock.set(clock.now() + FILES_LIFE + timedelta(seconds=1))
    assert await refusals(info) == []
    await info.publish("default", LOADER)
    clock.set(clock.now() + timedelta(seconds=61))
    assert await refusals(info) == ["missing-model"]
    await info.files_changed("default")
    clock.set(clock.now() + timedelta(seconds=61))
    assert await refusals(info) == []
    await info.publish("default", LOADER, files_listed=False)
    clock.set(clock.now() + timedelta(seconds=61))
    assert await refusals(info) == []
    await info.files_changed("another")


async def test_engine_information_expires(objects: ObjectStore, clock: ManualClock) -> None:
    """Old engine information refuses no job, because a refused job starts no worker that would renew it."""
    info = EngineInfoStore(objects, clock)
    await info.publish("default", {"Another": {}})
    assert await refusals(info) == ["unknown-node-class"]
    clock.set(clock.now() + INFO_LIFE)
    assert await refusals(info) == ["unknown-node-class"]
    clock.set(clock.now() + timedelta(seconds=1))
    assert await refusals(info) == []


async def refusals(info: EngineInfoStore) -> list[str]:
    return [fault.code for fault in (await info.catalogue("default")).check(MODEL).faults]


MODEL = parse_graph({"1": {"class_type": "Loader", "inputs": {"name": "b.safetensors"}}})
LOADER = {"Loader": {"input": {"required": {"name": [["a.safetensors"]]}}, "output": [], "output_node": True}}

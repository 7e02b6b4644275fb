"""Previews of running jobs: the live board, the worker that writes it, and the streams that read it."""

import asyncio
import base64
import json
import struct
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock, SystemClock
from storage.jobs.live import MAX_FRAME_BYTES, BucketLiveBoard, PreviewFrame
from storage.jobs.record import JobRecord, Status
from storage.signal import MemorySignal, live_topic
from tests.support.api_server import Api, submit, work
from tests.support.records import a_job
from tests.support.scripted_comfy import Play
from tests.support.sse import listening
from tests.support.stage import paint, stage
from tests.support.waiting import until
from workers.live import LivePreviews
from workflows.messages import Preview

pytestmark = pytest.mark.anyio


def frame(number: int, text: str = "") -> PreviewFrame:
    return PreviewFrame(number=number, node_id="7", data_base64=text)


@pytest.mark.real_bucket("the board's objects")
async def test_a_board_keeps_the_newest_preview(objects: ObjectStore) -> None:
    """A board returns the newest preview of each attempt, rings for it, and forgets it when it is cleared."""
    signal = MemorySignal()
    board, place = BucketLiveBoard(objects, signal), ("default", "0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10", 1)
    assert await board.latest(*place) is None
    with signal.listen(live_topic(*place[:2])) as bell:
        await board.put(*place, frame(1))
        await board.put(*place, frame(2))
        assert await bell.wait(0)
    assert await board.latest(*place) == frame(2)
    assert await board.latest(*place[:2], 2) is None
    await board.put(*place, frame(3, "A" * MAX_FRAME_BYTES))
    assert await board.latest(*place) == frame(2)  # one that is too large is dropped
    await board.clear(*place)
    assert await board.latest(*place) is None


async def test_a_stream_sends_the_previews_of_its_job(memory_api: Api) -> None:
    """A stream marks its running job as watched, sends each new preview, and costs nothing more once it is closed."""
    job_id = (await submit(memory_api))["job_id"]
    claimed = await memory_api.queue.claim("default", "w")
    assert claimed is not None
    assert claimed.record.watched_until is None
    requests: Counter[str] = memory_api.objects.requests  # type: ignore[attr-defined]  # the in-memory store counts
    live, place = memory_api.stores.live, ("default", job_id, 1)
    async with (
        listening(memory_api.client, f"/v1/jobs/{job_id}/events") as one,
        listening(memory_api.client, f"/api/v2/jobs/{job_id}/events") as other,
    ):
        await asyncio.gather(one.until("status", status="running"), other.until("status", status="running"))
        for number in (1, 2):
            await live.put(*place, frame(number, f"QUJ{number}"))
            ours, theirs = [await stream.until("preview") for stream in (one, other)]
            assert ours[-1].data["data_base64"] == theirs[-1].data["data_base64"] == f"QUJ{number}"
            assert (ours[-1].id, ours[-1].data["content_type"]) == (None, "image/jpeg")
        watched = (await memory_api.stores.jobs.read(*place[:2])).record
        assert watched.is_watched(memory_api.stores.clock.now())
        puts = requests["PUT"]
        await asyncio.sleep(1.5)
        assert requests["PUT"] == puts  # one mark for both streams, which is renewed when it is nearly over
    # The server notices the closed streams a little later.
    async with asyncio.timeout(20):
        while True:
            before = requests.copy()
            await asyncio.sleep(1.2)
            if requests == before:
                break
    await work_on(memory_api, claimed.record)


async def work_on(api: Api, record: JobRecord) -> None:
    now = api.stores.clock.now()
    await api.stores.jobs.evolve("default", record.job_id, lambda r: r.complete(attempt=1, now=now, outputs=()))


async def test_a_job_that_is_not_running_is_not_marked(memory_api: Api) -> None:
    """A stream of a queued or ended job writes nothing to the bucket."""
    job_id = (await submit(memory_api))["job_id"]
    requests: Counter[str] = memory_api.objects.requests  # type: ignore[attr-defined]  # the in-memory store counts
    await memory_api.stores.jobs.settled()
    before = requests["PUT"]
    async with listening(memory_api.client, f"/v1/jobs/{job_id}/events") as stream:
        await stream.next()
        await asyncio.sleep(0.5)
        assert requests["PUT"] == before
        await work(memory_api)
        before = requests["PUT"]
        assert (await stream.rest())[-1].data["status"] == "completed"
    assert requests["PUT"] == before


def jpeg(text: bytes) -> bytes:
    metadata = json.dumps({"node_id": "2", "image_type": "image/jpeg"}).encode()
    return struct.pack(">II", 4, len(metadata)) + metadata + text


async def published(board: BucketLiveBoard, job_id: str) -> PreviewFrame:
    for _ in range(400):
        if (found := await board.latest("default", job_id, 1)) is not None:
            return found
        await asyncio.sleep(0.05)
    pytest.fail("no preview was published")


@pytest.mark.parametrize("is_watched", [True, False])
async def test_a_worker_publishes_previews_of_a_watched_job_alone(tmp_path: Path, is_watched: bool) -> None:
    """A worker writes the newest preview while its job is watched, and removes it at the end; else it writes none."""
    seen = asyncio.Event()

    async def script(play: Play) -> None:
        outputs = await paint(play, tmp_path)
        await play.say("executing", node="2", display_node="2")
        for text in (b"one", b"two", b"three"):
            await play.say_raw(jpeg(text))
        await seen.wait()
        await play.succeed(outputs)

    async with stage(tmp_path, script) as on:
        claimed = await on.claimed()
        record, board = claimed.record, BucketLiveBoard(on.objects, MemorySignal())
        if is_watched:
            soon = SystemClock().now() + timedelta(minutes=1)
            claimed = await on.jobs.evolve_from(claimed, lambda job: job.watch(soon))
        running = asyncio.create_task(on.run(claimed))
        if is_watched:
            found = await published(board, record.job_id)
            assert (found.node_id, base64.b64decode(found.data_base64)) == ("2", b"three")
        else:
            await on.until(record.job_id, lambda job: job.progress_details.current_node == "2")
            await asyncio.sleep(1.5)
            assert keys.live("default", record.job_id, 1) not in (await on.objects.list("")).keys
        seen.set()
        assert (await running).stored.record.status is Status.COMPLETED
        assert await board.latest("default", record.job_id, 1) is None


async def test_a_preview_that_is_too_large_is_not_encoded(clock: ManualClock) -> None:
    """A preview above the board's limit replaces no smaller one that waits to be published."""
    objects = MemoryObjectStore(clock)
    record = a_job().claim(worker="w", now=clock.now(), lease_s=60).watch(clock.now() + timedelta(minutes=1))
    board = BucketLiveBoard(objects, MemorySignal())
    previews = LivePreviews(board, clock, lambda: record, interval_s=0.02)
    previews.notice(Preview("jpeg", b"one"), "7")
    previews.notice(Preview("jpeg", bytes(MAX_FRAME_BYTES + 1)), "7")
    previews.start()
    await until(lambda: objects.requests["PUT"] == 1)
    shown = await board.latest(record.tenant, record.job_id, record.attempt)
    assert shown is not None
    assert base64.b64decode(shown.data_base64) == b"one"
    await previews.stop()


async def test_a_job_that_is_not_watched_costs_no_request(clock: ManualClock) -> None:
    """Previews cost no request while the job is not watched, and one PUT an interval while it is."""
    objects = MemoryObjectStore(clock)
    record = a_job().claim(worker="w", now=clock.now(), lease_s=60)
    previews = LivePreviews(BucketLiveBoard(objects, MemorySignal()), clock, lambda: record, interval_s=0.02)
    previews.start()
    for text in (b"one", b"two"):
        previews.notice(Preview("jpeg", text), "7")
        await asyncio.sleep(0.1)
    assert objects.requests == {}
    record = record.watch(clock.now() + timedelta(minutes=1))
    previews.notice(Preview("png", b"a result"), "7")
    await until(lambda: objects.requests["PUT"] == 1)
    await asyncio.sleep(0.1)
    assert objects.requests == {"PUT": 1}  # the same preview is not written again, and a PNG is none
    await previews.stop()
    assert objects.requests == {"PUT": 1, "DELETE": 1}


async def test_a_preview_is_removed_with_its_job(memory_api: Api) -> None:
    """A preview that its worker left behind is removed with its job."""
    job_id = (await submit(memory_api))["job_id"]
    await memory_api.stores.live.put("default", job_id, 1, frame(1))
    assert keys.live("default", job_id, 1) in await memory_api.keys()
    await memory_api.client.delete(f"/v1/jobs/{job_id}?purge=true")
    assert keys.live("default", job_id, 1) not in await memory_api.keys()

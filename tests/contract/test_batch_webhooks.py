"""The event of a finished batch: it is sent however long the batch takes, signed with the right secret, and removed
with the batch.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from standardwebhooks import Webhook

from storage import keys
from storage.batch_end import PAGE
from storage.batch_record import BatchRecord, StoredBatch, member_id
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock, SystemClock
from storage.errors import BatchGone
from storage.index_keys import MemberEntry, dead_letters_prefix
from storage.jobs.record import DAY_S
from storage.webhooks.signing import new_secret
from tests.support.api_server import BLUE, Api, running_api
from tests.support.post import DOWN, URL, Post
from tests.support.records import a_job
from workers.webhooks.post import Answer

pytestmark = pytest.mark.anyio

BATCH_ID = "0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10"
DELIVERY = keys.delivery("default", "batch", BATCH_ID, 1)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that begins now, because verifiers refuse old timestamps."""
    return ManualClock(SystemClock().now().replace(microsecond=0))


async def open_batch(post: Post, jobs: int = 2, **fields: Any) -> StoredBatch:
    """An accepted batch with queued jobs."""
    ids = tuple(member_id(BATCH_ID, n) for n in range(jobs))
    now = post.clock.now()
    defaults = {"tenant": "default", "batch_id": BATCH_ID, "job_ids": ids, "created_at": now, "webhook_url": URL}
    draft = await post.stores.batches.draft(BatchRecord(**(defaults | fields)))
    records = [
        a_job(job_id=job_id, batch_id=BATCH_ID, is_batch_reported=True, created_at=now, retain_s=600) for job_id in ids
    ]
    stored = [await post.stores.jobs.create_unpublished(record, workflow=b"{}") for record in records]
    accepted, _ = await post.stores.batches.accept(draft, [job.record for job in stored])
    return accepted


async def cancel_jobs(post: Post, batch: StoredBatch) -> None:
    now = post.clock.now()
    for job_id in batch.record.job_ids:
        await post.stores.jobs.evolve("default", job_id, lambda r: r.cancel(now=now))


@pytest.mark.real_bucket("conditional writes")
async def test_a_finished_batch_is_reported(post: Post) -> None:
    """The batch event is sent once all jobs of the batch have ended, in whatever state."""
    batch = await open_batch(post)
    now = post.clock.now()
    for number, job_id in enumerate(batch.record.job_ids):
        await post.stores.jobs.evolve("default", job_id, lambda r: r.cancel(now=now))
        post.pass_time(minutes=2)
        await post.reap()
        await post.send()
        assert len(post.receiver.posts) == number
    (event,) = post.receiver.events()
    assert (event["type"], event["subject"], event["id"]) == (
        "comfyui.batch.finished.v1",
        BATCH_ID,
        f"evt_{BATCH_ID}_000001",
    )
    assert event["data"]["counts"]["failed"] == 2


async def test_a_batch_that_outlives_its_retention_is_still_reported(post: Post) -> None:
    """A batch whose jobs waited longer than its retention time is still reported when they end."""
    batch = await open_batch(post, retain_s=DAY_S)
    for _ in range(3):
        post.pass_time(days=1)
        await post.reap()
    assert post.receiver.posts == []
    await cancel_jobs(post, batch)
    post.pass_time(minutes=11)  # the check after the last job's end runs in the background, and the next is due by now
    await post.reap()
    await post.send()
    assert [event["type"] for event in post.receiver.events()] == ["comfyui.batch.finished.v1"]


async def test_a_batch_is_kept_until_it_is_reported(post: Post) -> None:
    """A batch is kept until its receiver accepts the event, even beyond its retention, and is then removed."""
    batch = await open_batch(post, retain_s=DAY_S)
    await cancel_jobs(post, batch)
    post.receiver.answers = [DOWN] * 8
    post.pass_time(minutes=2)
    await post.reap()
    for _ in range(100):
        post.pass_time(hours=2)
        await post.reap()
        await post.send()
    assert post.receiver.answers == []
    assert len(post.receiver.posts) == 9
    with pytest.raises(BatchGone):
        await post.stores.batches.read("default", BATCH_ID)


async def test_dead_letters_of_a_batch_are_removed_with_it(post: Post) -> None:
    """Removing a batch also removes its dead letters."""
    batch = await open_batch(post)
    await cancel_jobs(post, batch)
    post.receiver.answers = [Answer(415, 5)]
    post.pass_time(minutes=2)
    await post.reap()
    await post.send()
    assert len((await post.objects.list(dead_letters_prefix("default"))).keys) == 1
    for _ in range(12):
        post.pass_time(days=1)
        await post.reap()
    with pytest.raises(BatchGone):
        await post.stores.batches.read("default", BATCH_ID)
    assert (await post.objects.list(dead_letters_prefix("default"))).keys == ()


async def test_the_cost_of_waiting_for_a_batch_does_not_depend_on_its_jobs(clock: ManualClock) -> None:
    """Index keys of a batch's jobs are rebuilt once and not at each check of the batch."""
    objects = MemoryObjectStore(clock)
    post = Post(objects, clock)
    await open_batch(post, jobs=30)
    post.pass_time(minutes=2)
    await post.reap()
    objects.requests.clear()
    post.pass_time(minutes=2)
    await post.reap()
    assert objects.requests["PUT"] < 10


async def test_a_waiting_batch_is_checked_less_and_less_often(clock: ManualClock) -> None:
    """The time between two checks of a batch doubles up to ten minutes while none of its jobs ends."""
    objects = MemoryObjectStore(clock)
    post = Post(objects, clock)
    await open_batch(post)
    await _reaped(post, minutes=30)
    objects.requests.clear()
    await _reaped(post, minutes=60)
    assert objects.requests["PUT"] <= 2 * 7


async def test_the_end_of_the_last_job_is_reported_at_once(clock: ManualClock) -> None:
    """The batch event is sent without a check by the reaper, although the next one is minutes away."""
    post = Post(MemoryObjectStore(clock), clock)
    batch = await open_batch(post, jobs=3 * PAGE)
    await _reaped(post, minutes=60)
    await cancel_jobs(post, batch)
    await post.stores.jobs.settled()
    await post.send()
    (event,) = post.receiver.events()
    assert event["data"]["counts"]["failed"] == 3 * PAGE


async def _reaped(post: Post, *, minutes: int) -> None:
    for _ in range(3 * minutes):
        post.pass_time(seconds=20)
        await post.reap()


async def test_input_files_of_an_abandoned_batch_are_removed_at_once(post: Post) -> None:
    """Input files of an abandoned batch are removed before its tombstone, because they may be large."""
    record = BatchRecord(tenant="default", batch_id=BATCH_ID, job_ids=(), created_at=post.clock.now())
    await post.stores.batches.draft(record)
    await post.objects.put(keys.batch_file("default", BATCH_ID, 0), b"large")
    post.pass_time(hours=26)
    await post.reap()
    assert (await post.objects.list(keys.batch_prefix("default", BATCH_ID))).keys == (keys.batch("default", BATCH_ID),)


# Over HTTP.


@pytest.fixture
async def api(clock: ManualClock) -> AsyncIterator[tuple[Api, Post]]:
    objects = MemoryObjectStore(clock)
    async with running_api(objects, clock) as api:
        yield api, Post(objects, clock)


async def test_a_batch_signs_with_its_own_secret(api: tuple[Api, Post]) -> None:
    """The event of a batch is signed with the batch's own secret, like those of its jobs."""
    server, post = api
    own = new_secret()
    sets = [[{"node": "1", "field": "color", "value": 1}]]
    document = {"workflow": BLUE, "input_sets": sets, "webhook_url": URL, "webhook_secret": own}
    answer = await server.client.post("/v1/batches", json=document)
    assert answer.status_code == 202, answer.text
    await server.client.delete(f"/v1/batches/{answer.json()['batch_id']}")
    post.pass_time(minutes=2)
    await post.reap()
    await post.send()
    assert {event["type"] for event in post.receiver.events()} == {
        "comfyui.job.failed.v1",
        "comfyui.batch.finished.v1",
    }
    for _, headers, body in post.receiver.posts:
        assert Webhook(own).verify(body, dict(headers))
    assert own not in answer.text


async def test_a_late_index_key_does_not_keep_a_batch_unfinished(post: Post) -> None:
    """A batch finishes although the first index key of a job was written after the job had been removed."""
    batch = await open_batch(post)
    await cancel_jobs(post, batch)
    for job_id in batch.record.job_ids:
        await post.stores.remover.purge(await post.stores.jobs.read("default", job_id))
        await post.objects.put(MemberEntry(job_id, 0, "queued").key("default", BATCH_ID), b"")
    for _ in range(12):
        post.pass_time(days=1)
        await post.reap()
        await post.send()
    assert len(post.receiver.posts) == 1
    with pytest.raises(BatchGone):
        await post.stores.batches.read("default", BATCH_ID)

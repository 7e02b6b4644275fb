"""The event of a finished batch: told whatever takes how long, signed as was asked, and cleared away with its batch."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from standardwebhooks import Webhook

from storage import keys
from storage.batches import BatchRecord, StoredBatch, member_id
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock, SystemClock
from storage.errors import BatchGone
from storage.index_keys import MemberEntry, dead_letters_prefix
from storage.jobs.record import DAY_S
from storage.webhooks.post import Answer
from storage.webhooks.signing import new_secret
from tests.support.api_server import BLUE, Api, running_api
from tests.support.post import DOWN, URL, Post
from tests.support.records import a_job

pytestmark = pytest.mark.anyio

BATCH_ID = "0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10"
DELIVERY = keys.delivery("default", "batch", BATCH_ID, 1)


@pytest.fixture
def clock() -> ManualClock:
    """Begins now: verifiers refuse what is old."""
    return ManualClock(SystemClock().now().replace(microsecond=0))


async def opened(post: Post, jobs: int = 2, **fields: Any) -> StoredBatch:
    """A batch that is accepted, with jobs that wait."""
    ids = tuple(member_id(BATCH_ID, n) for n in range(jobs))
    now = post.clock.now()
    wanted = {"tenant": "default", "batch_id": BATCH_ID, "job_ids": ids, "created_at": now, "webhook_url": URL}
    draft = await post.stores.batches.draft(BatchRecord(**(wanted | fields)))
    records = [a_job(job_id=job_id, batch_id=BATCH_ID, created_at=now, retain_s=600) for job_id in ids]
    stored = [await post.stores.jobs.create_unpublished(record, workflow=b"{}") for record in records]
    return await post.stores.batches.accept(draft, [job.record for job in stored])


async def cancel_jobs(post: Post, batch: StoredBatch) -> None:
    now = post.clock.now()
    for job_id in batch.record.job_ids:
        await post.stores.jobs.evolve("default", job_id, lambda r: r.cancel(now=now))


@pytest.mark.real_bucket("conditional writes")
async def test_a_finished_batch_is_told(post: Post) -> None:
    """Once every job of it is over, however it ended."""
    batch = await opened(post)
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


async def test_a_batch_that_outlives_its_time_is_told_all_the_same(post: Post) -> None:
    """Its jobs waited longer than it was to be kept."""
    batch = await opened(post, retain_s=DAY_S)
    for _ in range(3):
        post.pass_time(days=1)
        await post.reap()
    assert post.receiver.posts == []
    await cancel_jobs(post, batch)
    post.pass_time(minutes=6)
    await post.reap()
    await post.send()
    assert [event["type"] for event in post.receiver.events()] == ["comfyui.batch.finished.v1"]


async def test_a_batch_stays_until_it_is_told(post: Post) -> None:
    """Its receiver is down for longer than batch and jobs are kept; afterwards nothing of it is left."""
    batch = await opened(post, retain_s=DAY_S)
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


async def test_dead_letters_of_a_batch_go_with_it(post: Post) -> None:
    """Also if nobody looks at the list."""
    batch = await opened(post)
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


async def test_waiting_for_a_batch_costs_the_same_however_many_jobs(clock: ManualClock) -> None:
    """Its jobs are announced again once, not at each look."""
    objects = MemoryObjectStore(clock)
    post = Post(objects, clock)
    await opened(post, jobs=30)
    post.pass_time(minutes=2)
    await post.reap()
    objects.requests.clear()
    post.pass_time(minutes=2)
    await post.reap()
    assert objects.requests["PUT"] < 10


async def test_what_an_abandoned_batch_brought_goes_at_once(post: Post) -> None:
    """Media may be large: they are not kept as long as the tombstone."""
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
    """As its jobs do: who brought a secret knows no other."""
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


async def test_a_hint_that_comes_late_does_not_keep_a_batch_unfinished(post: Post) -> None:
    """A job was over and removed before the write of its first hint landed."""
    batch = await opened(post)
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

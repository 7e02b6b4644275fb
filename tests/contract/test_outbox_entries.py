"""Outbox entries: no event is lost, and no entry is kept without need."""

from typing import Any

import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.errors import JobGone, PreconditionFailed, StorageUnavailable
from storage.index_keys import OUTBOX, OutboxEntry
from storage.jobs.index import endpoint_of, event_ref, index_keys
from storage.jobs.record import JobRecord
from tests.support.post import DOWN, URL, Post

pytestmark = pytest.mark.anyio


@pytest.mark.real_bucket("conditional writes in a race")
async def test_two_deliverers_send_one_attempt(post: Post) -> None:
    """A second deliverer finds the lease of the first, and sends the event once the lease has expired."""
    await post.completed("completed")
    (entry,) = await post.outbox_entries()
    held = await post.stores.outbox.find(entry)
    assert not isinstance(held, str)
    await post.deliverer._hold(entry, held)
    assert await post.deliverer.deliver(entry) == "later"
    assert post.receiver.posts == []
    post.pass_time(seconds=91)
    assert await post.deliverer.deliver(entry) == "delivered"


async def test_an_outbox_entry_before_its_commit_waits(post: Post) -> None:
    """An entry is written before its commit; once it is old, its writer is fenced and the entry is deleted."""
    record = (await post.claimed("completed")).record
    event = _event(record)
    ahead = OutboxEntry(post.clock.now(), endpoint_of(URL), event_ref(record, event), event.rev)
    await post.objects.put(ahead.key, b"")
    assert await post.deliverer.deliver(ahead) == "later"
    before = await post.stores.jobs.read("default", record.job_id)
    post.pass_time(minutes=11)
    assert await post.deliverer.deliver(ahead) == "dropped"
    with pytest.raises(PreconditionFailed):
        await post.stores.jobs.advance(before, before.record)
    assert post.receiver.posts == []


async def test_an_outbox_entry_may_be_slightly_early(post: Post) -> None:
    """An entry is delivered although its key, in milliseconds, is due slightly before its delivery."""
    await post.completed("completed")
    post.receiver.answers = [DOWN]
    await post.send()
    (entry,) = await post.outbox_entries()
    post.clock.set(entry.due)
    assert await post.deliverer.deliver(entry) == "delivered"


async def test_a_stale_outbox_entry_has_another_key_than_a_second_commit(post: Post) -> None:
    """Deleting the outbox entry of a fenced commit does not affect that of the writer's second commit."""
    before = await post.claimed("completed")

    def completed(record: JobRecord) -> JobRecord:
        return record.complete(attempt=1, now=post.clock.now(), outputs=())

    fenced = await post.stores.jobs.rearm(before, before.record.due_at)
    first, second = (
        {key for key in index_keys(completed(record)) if key.startswith(OUTBOX)}
        for record in (before.record, fenced.record)
    )
    assert len(first) == len(second) == 1
    assert first.isdisjoint(second)


def _event(record: JobRecord) -> Any:
    return record.complete(attempt=1, now=record.created_at, outputs=()).events[-1]


async def test_a_bucket_failure_loses_no_event(clock: ManualClock) -> None:
    """An event whose result could not be written is sent again with the same id."""

    class FailingStore(MemoryObjectStore):
        failing = False

        async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
            if self.failing and "/deliveries/" in key:
                raise StorageUnavailable("away")
            return await super().replace(key, body, etag=etag, content_type=content_type)

    objects = FailingStore(clock)
    post = Post(objects, clock)
    await post.completed("completed")
    objects.failing = True
    await post.send()
    objects.failing = False
    post.pass_time(minutes=2)
    await post.send()
    assert len({headers["webhook-id"] for _, headers, _ in post.receiver.posts}) == 1
    assert len(post.receiver.posts) == 2
    assert await post.outbox_entries() == []


async def test_a_lost_outbox_entry_is_written_again(post: Post) -> None:
    """A job with an undelivered event is kept beyond its retention, and its lost outbox entry is written again."""
    record = await post.completed("completed", retain_s=60)
    await post.objects.delete(*(entry.key for entry in await post.outbox_entries()))
    await post.send()
    assert post.receiver.posts == []
    post.pass_time(seconds=61)
    await post.reap()
    await post.send()
    assert post.receiver.types() == ["completed"]
    post.pass_time(minutes=11)
    await post.reap()
    with pytest.raises(JobGone):
        await post.stores.jobs.read("default", record.job_id)

"""Removal of finished jobs, dead submissions, uploads and Idempotency-Keys."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.errors import JobGone, JobNotFound, PreconditionFailed, StorageUnavailable, UploadNotFound
from storage.index_keys import QUEUE
from storage.jobs.idempotency import Claim
from storage.jobs.record import DAY_S, Status
from storage.jobs.uploads import UploadStore
from storage.timers import Timer, lane_prefix
from tests.support.records import a_job, input_file
from tests.support.shop import Shop
from workers.upkeep.reaper import TimerSweep

pytestmark = pytest.mark.anyio


@pytest.fixture
def shop(objects: ObjectStore, clock: ManualClock) -> Shop:
    return Shop(objects, clock)


async def test_a_finished_job_is_removed_after_its_retention(shop: Shop) -> None:
    """A finished job is removed exactly at the end of its retention, and its tombstone a month later."""
    record = (await shop.completed(retain_s=2 * DAY_S)).record
    await shop.objects.put(keys.output("default", record.job_id, 1, 0, "a.png"), b"png")
    shop.pass_time(days=2, seconds=-1)
    assert not await shop.reaper.sweep()
    shop.pass_time(1)
    assert await shop.reaper.sweep() == {"job": 1}
    with pytest.raises(JobGone):
        await shop.jobs.read("default", record.job_id)
    with pytest.raises(JobGone):
        await shop.jobs.workflow("default", record.job_id)
    assert await shop.keys("tenants/") == (keys.record("default", record.job_id),)
    shop.pass_time(days=30)
    await shop.reaper.sweep()
    with pytest.raises(JobNotFound):
        await shop.jobs.read("default", record.job_id)
    assert await shop.keys() == ()


@pytest.mark.real_bucket("deletes of many keys")
async def test_many_files_are_removed(shop: Shop) -> None:
    """A job with more files than one LIST returns is removed completely."""
    stored = await shop.completed()
    names = (keys.output("default", stored.record.job_id, 1, n, "a") for n in range(1_020))
    await asyncio.gather(*(shop.objects.put(name, b"") for name in names))
    await shop.stores.remover.purge(stored)
    assert await shop.keys("tenants/") == (keys.record("default", stored.record.job_id),)


async def test_an_interrupted_removal_is_continued(clock: ManualClock) -> None:
    """A removal that was interrupted after the tombstone is completed by the next sweep."""
    objects = MemoryObjectStore(clock)
    shop = Shop(objects, clock)
    stored = await shop.completed()
    objects_delete, objects.delete = objects.delete, _die  # type: ignore[method-assign]  # the process dies slow_shop
    with pytest.raises(ConnectionError):
        await shop.stores.remover.purge(stored)
    objects.delete = objects_delete  # type: ignore[method-assign]  # another process takes over
    await shop.reaper.sweep()
    assert await shop.keys("tenants/") == (keys.record("default", stored.record.job_id),)


async def _die(*_: str) -> None:
    raise ConnectionError


async def test_a_removed_job_stays_removed(shop: Shop) -> None:
    """A process that read a job before its removal can neither write nor create it."""
    stored = await shop.completed()
    await shop.stores.remover.purge(stored)
    with pytest.raises(PreconditionFailed):
        await shop.jobs.advance(stored, stored.record)
    with pytest.raises(PreconditionFailed):
        await shop.jobs.create(stored.record, workflow=b"{}")


async def test_a_running_job_is_removed_after_its_end(shop: Shop) -> None:
    """A running job with `retain(0)` is removed once it has ended."""
    record = await shop.claimed()
    now = shop.clock.now()
    await shop.jobs.evolve("default", record.job_id, lambda r: r.retain(0).cancel(now=now))
    await shop.reaper.sweep()
    assert (await shop.read(record)).status is Status.RUNNING
    await shop.jobs.evolve("default", record.job_id, lambda r: r.complete(attempt=1, now=now, outputs=()))
    await shop.reaper.sweep()
    with pytest.raises(JobGone):
        await shop.read(record)


async def test_a_dead_submission_is_removed(shop: Shop, tmp_path: Path) -> None:
    """A dead submission is removed after its Idempotency-Key has expired, and it can no longer be completed."""
    record = a_job(created_at=shop.clock.now())
    lost = {input_file(keys.input_file("default", record.job_id, 0)): tmp_path / "missing"}
    with pytest.raises((OSError, StorageUnavailable)):
        await shop.jobs.create(record, workflow=b"{}", uploads=lost)
    assert await shop.keys("tenants/default/jobs/") != ()
    shop.pass_time(hours=24)
    await shop.reaper.sweep()
    assert await shop.keys("tenants/default/jobs/") == (keys.workflow("default", record.job_id),)
    shop.pass_time(hours=2)
    await shop.reaper.sweep()
    assert await shop.keys("tenants/default/jobs/") == (keys.record("default", record.job_id),)
    assert await shop.keys(QUEUE) == ()
    with pytest.raises(PreconditionFailed):
        await shop.jobs.create(record, workflow=b"{}")


async def test_timers_without_a_job_are_postponed(shop: Shop) -> None:
    """The timer of a draft is postponed however short its queue limit is, so that sweeps do not read it repeatedly."""
    await shop.jobs.prepare(a_job(created_at=shop.clock.now(), queue_timeout_s=1), workflow=b"{}")
    shop.pass_time(minutes=11)
    await shop.reaper.sweep()
    timers = [Timer.parse(key) for key in await shop.keys("timers/")]
    assert [timer.due - shop.clock.now() for timer in timers] == [timedelta(hours=25) - timedelta(minutes=11)]


async def test_a_job_with_a_postponed_timer_is_handled(shop: Shop) -> None:
    """A job that was committed after its timer had been postponed still fails at its queue limit."""
    record = await shop.jobs.prepare(a_job(created_at=shop.clock.now(), queue_timeout_s=1), workflow=b"{}")
    shop.pass_time(minutes=11)
    await shop.reaper.sweep()
    await shop.objects.put(keys.record("default", record.job_id), record.model_dump_json().encode())
    shop.pass_time(hours=25)
    for _ in range(2):
        await shop.reaper.sweep()
    assert (await shop.read(record)).status is Status.FAILED


async def test_a_slow_submission_is_claimed(clock: ManualClock, tmp_path: Path) -> None:
    """A job whose index key an idle worker deleted while its input files were stored can still be claimed."""

    class Slow(MemoryObjectStore):
        async def upload_file(self, key: str, path: Path, *, content_type: str, size: int | None = None) -> None:
            slow_shop.pass_time(minutes=11)
            assert await slow_shop.queue.claim("default", "idle") is None
            assert await slow_shop.keys(QUEUE) == ()
            await super().upload_file(key, path, content_type=content_type, size=size)

    slow_shop = Shop(Slow(clock), clock)
    (tmp_path / "a.png").write_bytes(b"png")
    record = a_job(created_at=clock.now())
    file = input_file(keys.input_file("default", record.job_id, 0))
    await slow_shop.jobs.create(record, workflow=b"{}", uploads={file: tmp_path / "a.png"})
    assert (await slow_shop.claim()).job_id == record.job_id


async def test_a_job_fails_at_its_queue_limit(shop: Shop) -> None:
    """A job that was not claimed within its queue limit fails, while the limit does not apply to a running job."""
    late, running = await shop.queued(queue_timeout_s=30), await shop.queued(queue_timeout_s=30, priority=1)
    assert (await shop.claim()).job_id == running.job_id
    shop.pass_time(29)
    await shop.reaper.sweep()
    assert (await shop.read(late)).status is Status.QUEUED
    shop.pass_time(1)
    await shop.reaper.sweep()
    ended = await shop.read(late)
    assert ended.error_detail is not None
    assert (ended.error_detail.code, ended.error_detail.retryable) == ("queue_timeout", True)
    assert (await shop.read(running)).status is Status.RUNNING
    assert await shop.keys(QUEUE) == ()


# Uploads and Idempotency-Keys.


async def test_an_upload_expires(shop: Shop) -> None:
    """An expired upload is first unusable, and then removed."""
    uploads = shop.stores.uploads
    upload, _, _ = await uploads.create("default", size_bytes=3, content_type="image/png", filename=None)
    await shop.objects.put(upload.key, b"png")
    shop.pass_time(days=7)
    await shop.reaper.sweep()
    with pytest.raises(UploadNotFound):
        await uploads.resolve("default", upload.upload_id)
    assert len(await shop.keys("tenants/")) == 2
    shop.pass_time(hours=1)
    await shop.reaper.sweep()
    assert await shop.keys() == ()


@pytest.mark.real_bucket("bytes that a client puts by URL")
async def test_bytes_that_arrive_after_an_upload_expired_are_removed(shop: Shop) -> None:
    """Bytes that a presigned URL stores after the upload has expired are removed."""
    uploads = UploadStore(shop.jobs, shop.objects, shop.clock, expires_s=12 * 3600, retain_s=3600)
    timers = TimerSweep({"upload": uploads}, shop.objects, shop.clock, lease_s=60)
    upload, _, _ = await uploads.create("default", size_bytes=3, content_type="text/plain", filename=None)
    shop.pass_time(hours=3)
    await timers.sweep()
    shop.pass_time(hours=8)
    await shop.objects.put(upload.key, b"abc")
    shop.pass_time(hours=3)
    await timers.sweep()
    assert await shop.keys(keys.upload_prefix("default", upload.upload_id)) == ()


@pytest.mark.real_bucket("bytes that a client puts by URL")
async def test_an_upload_is_kept_while_a_job_needs_it(shop: Shop) -> None:
    """An upload is kept for as long as the job that uses it has not ended."""
    uploads = shop.stores.uploads
    upload, _, _ = await uploads.create("default", size_bytes=3, content_type="image/png", filename=None)
    await shop.objects.put(upload.key, b"png")
    shop.pass_time(days=6)
    record = a_job(created_at=shop.clock.now())
    await uploads.use("default", upload.upload_id, record.job_id)
    await shop.jobs.create(record, workflow=b"{}")
    shop.pass_time(days=3)
    await shop.reaper.sweep()
    assert (await shop.objects.get(upload.key)).body == b"png"
    now = shop.clock.now()
    await shop.jobs.evolve("default", record.job_id, lambda r: r.cancel(now=now))
    shop.pass_time(hours=6)
    await shop.reaper.sweep()
    assert await shop.keys(keys.upload_prefix("default", upload.upload_id)) == ()


async def test_an_idempotency_key_expires(shop: Shop) -> None:
    """An idempotency key can be claimed again after a day, and only unclaimed keys are removed."""
    idempotency = shop.stores.idempotency
    first = await idempotency.claim("default", "jobs", "once", "body")
    await idempotency.claim("default", "jobs", "again", "body")
    shop.pass_time(hours=24, minutes=30)
    second = await idempotency.claim("default", "jobs", "again", "other body")
    assert second.is_first
    shop.pass_time(hours=1, minutes=30)
    await shop.reaper.sweep()
    assert len(await shop.keys("tenants/")) == 1
    assert await idempotency.claim("default", "jobs", "again", "other body") == Claim(second.id, is_first=False)
    assert (await idempotency.claim("default", "jobs", "once", "body")).id != first.id


@pytest.mark.real_bucket("conditional writes")
async def test_a_retired_key_is_not_claimed(shop: Shop) -> None:
    """A claim waits until a retired key is deleted, because the deletion would affect the new claim."""
    idempotency = shop.stores.idempotency
    await idempotency.claim("default", "jobs", "once", "body")
    shop.pass_time(hours=26)
    (name,) = await shop.keys("tenants/")
    found = await shop.objects.get(name)
    retired = {**json.loads(found.body), "retired_at": shop.clock.now().isoformat()}
    await shop.objects.put(name, json.dumps(retired).encode())
    claiming = asyncio.create_task(idempotency.claim("default", "jobs", "once", "body"))
    await asyncio.sleep(0.1)
    assert not claiming.done()
    await shop.objects.delete(name)
    assert (await claiming).is_first


class HeldDeletion(MemoryObjectStore):
    """A bucket whose first deletion waits until it is released."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.started, self.released = asyncio.Event(), asyncio.Event()

    async def delete(self, *keys: str) -> None:
        if not self.started.is_set():
            self.started.set()
            await self.released.wait()
        await super().delete(*keys)


async def test_a_late_deletion_does_not_affect_a_new_claim(clock: ManualClock) -> None:
    """A key that is claimed between the deletions of two overlapping sweeps keeps one id."""
    objects = HeldDeletion(clock)
    idempotency = Shop(objects, clock).stores.idempotency
    await idempotency.claim("default", "jobs", "once", "body")
    (key,) = (await objects.list(lane_prefix("retained"))).keys
    timer = Timer.parse(key)
    clock.set(clock.now() + timedelta(hours=26))
    slow = asyncio.create_task(idempotency.on_due(timer))
    await objects.started.wait()
    await idempotency.on_due(timer)
    ids = set()
    with contextlib.suppress(StorageUnavailable):  # an error that asks to retry is allowed too
        ids.add((await idempotency.claim("default", "jobs", "once", "body")).id)
    objects.released.set()
    await slow
    ids.add((await idempotency.claim("default", "jobs", "once", "body")).id)
    assert len(ids) == 1


class SlowRemoval(MemoryObjectStore):
    """A bucket in which each replaced record takes a second of the test's clock."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self._time = clock

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        self._time.set(self._time.now() + timedelta(seconds=1))
        return await super().replace(key, body, etag=etag, content_type=content_type)


async def test_many_removals_do_not_delay_lost_jobs(clock: ManualClock) -> None:
    """A sweep removes jobs for about a minute and leaves the rest to the next sweep."""
    shop = Shop(SlowRemoval(clock), clock)
    for _ in range(300):
        await shop.completed()
    shop.pass_time(days=8)
    assert [(await shop.reaper.sweep())["job"] for _ in range(6)] == [60, 60, 60, 60, 60, 0]


async def test_timers_that_are_not_due_cost_no_requests(clock: ManualClock) -> None:
    """A sweep makes one LIST for each lane and the queue, however many timers are due later."""
    objects = MemoryObjectStore(clock)
    shop = Shop(objects, clock)
    for _ in range(300):
        await shop.completed()
    shop.pass_time(timedelta(days=1).total_seconds())
    objects.requests.clear()
    assert not await shop.reaper.sweep()
    assert dict(objects.requests) == {"LIST": 3}


class InterruptedStore(MemoryObjectStore):
    """A bucket that calls `interrupt` between a read of `key` and its next write."""

    key = ""
    interrupt: Callable[[], Awaitable[object]] | None = None

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        if key == self.key and (interrupt := self.interrupt) is not None:
            self.interrupt = None
            await interrupt()
        return await super().replace(key, body, etag=etag, content_type=content_type)


async def test_a_job_that_is_fenced_during_its_removal_is_discarded(clock: ManualClock) -> None:
    """A job is discarded although its record is rearmed by another timer at the same time."""
    objects = InterruptedStore(clock)
    shop = Shop(objects, clock)
    record = a_job()
    stored = await shop.jobs.create(record, workflow=b"{}")
    objects.key = keys.record(record.tenant, record.job_id)
    objects.interrupt = lambda: shop.jobs.rearm(stored, stored.record.due_at)
    await shop.stores.remover.discard(record.tenant, record.job_id, record.created_at)
    with pytest.raises(JobGone):
        await shop.jobs.read(record.tenant, record.job_id)


MOMENT = timedelta(microseconds=123_999)
"""Two times in one millisecond: this fraction of a second, and half a millisecond before it, when nothing is due."""
JUST_BEFORE = timedelta(microseconds=500)


@pytest.mark.real_bucket("the order of a LIST")
async def test_a_sweep_in_the_millisecond_of_a_timer_loses_no_timer(shop: Shop) -> None:
    """A sweep just before the due time, in the same millisecond, loses no removal, tombstone or queue limit."""
    shop.clock.set(shop.clock.now() + MOMENT)
    ended = (await shop.completed(retain_s=3600)).record
    gone = await shop.completed()
    await shop.stores.remover.purge(gone)
    waiting = await shop.queued(queue_timeout_s=3600)

    async def sweep_around(moment: timedelta) -> None:
        for offset in (moment - JUST_BEFORE, moment + JUST_BEFORE):
            shop.clock.set(start + offset)
            await shop.reaper.sweep()

    start = shop.clock.now()
    await sweep_around(timedelta(hours=1))
    assert (await shop.read(waiting)).status is Status.FAILED
    with pytest.raises(JobGone):
        await shop.jobs.read("default", ended.job_id)
    await sweep_around(timedelta(days=30))
    with pytest.raises(JobNotFound):
        await shop.jobs.read("default", gone.record.job_id)


async def test_index_keys_of_a_dead_submission_are_removed(shop: Shop) -> None:
    """Index keys of a dead submission are derived from its timer, whose time is in milliseconds."""
    shop.clock.set(shop.clock.now() + MOMENT)
    record = a_job(created_at=shop.clock.now())
    await shop.jobs.prepare(record, workflow=b"{}")
    assert await shop.keys("tenants/default/index/")
    shop.pass_time(days=2)
    await shop.reaper.sweep()
    assert not await shop.keys("tenants/default/index/")

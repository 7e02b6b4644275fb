"""Waiting for jobs: what many waiters cost the bucket, and how waiting ends."""

import asyncio
import uuid

import pytest

from app.batch_state import BatchWatch, state_of
from app.watch import POLL_S, READS_PER_S, JobWatch, Pace
from infra.compose.stores import make_stores
from infra.settings import Settings
from storage.batch_record import BatchRecord
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.jobs.record import JobRecord
from storage.jobs.store import StoredJob
from storage.signal import MemorySignal
from tests.support.records import a_job
from tests.support.shop import Shop

pytestmark = pytest.mark.anyio


def never(record: JobRecord) -> bool:
    return False


async def _waited(watch: JobWatch, stored: StoredJob) -> "asyncio.Task[StoredJob]":
    waiting = asyncio.create_task(watch.until(stored, never, 60))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    return waiting


def test_the_poll_interval_grows_with_the_number_of_watched_jobs() -> None:
    """The poll interval grows with the number of watched jobs, so that the request rate on the bucket is bounded."""
    pace = Pace(POLL_S, READS_PER_S)
    assert pace.pause_s({"one": 1}, "one") == pace.pause_s({"one": 100}, "one") == POLL_S
    assert pace.pause_s({"one": 2_000}, "one") == 10.0


def test_one_tenant_does_not_slow_the_polls_of_another() -> None:
    """Tenants share the request rate, so a thousand polls of one leave the interval of another as it was."""
    pace = Pace(2.0, 20)
    assert pace.pause_s({"many": 1_000, "few": 2}, "few") == 2.0
    assert pace.pause_s({"many": 1_000, "few": 2}, "many") == 100.0


async def test_many_waiters_on_one_job_share_one_read(clock: ManualClock) -> None:
    """Five waiters on one job cost a single GET."""
    objects = MemoryObjectStore(clock)
    shop = Shop(objects, clock)
    stored = await shop.jobs.create(a_job(), workflow=b"{}")
    watch = JobWatch(shop.jobs, MemorySignal())
    await shop.jobs.settled()
    objects.requests.clear()
    waiting = [await _waited(watch, stored) for _ in range(5)]
    assert objects.requests["GET"] == 1
    watch.end()
    await asyncio.gather(*waiting)


async def test_ending_the_watch_returns_the_last_known_job(clock: ManualClock) -> None:
    """When the watch ends, current waiters get the last known job, and later waiters get it without a read."""
    objects = MemoryObjectStore(clock)
    shop = Shop(objects, clock)
    stored = await shop.jobs.create(a_job(), workflow=b"{}")
    watch = JobWatch(shop.jobs, MemorySignal())
    waiting = await _waited(watch, stored)
    watch.end()
    assert await asyncio.wait_for(waiting, 1) == stored
    await shop.jobs.settled()
    objects.requests.clear()
    assert await watch.until(stored, never, 60) is stored
    assert objects.requests["GET"] == 0


async def test_many_waiters_on_one_batch_share_one_poll(clock: ManualClock) -> None:
    """Five waiters on one batch cost one GET and one LIST, and get the last known state when the watch ends."""
    objects = MemoryObjectStore(clock)
    stores = make_stores(Settings(bucket="tests"), objects, MemorySignal(), clock)
    record = BatchRecord(tenant="default", batch_id=str(uuid.uuid4()), job_ids=(), created_at=clock.now())
    accepted, _ = await stores.batches.accept(await stores.batches.draft(record), ())
    state = await state_of(stores.batches, accepted)
    watch = BatchWatch(stores.batches, stores.signal)
    objects.requests.clear()
    waiting = [asyncio.create_task(watch.until(state, lambda _: False, 60)) for _ in range(5)]
    await asyncio.sleep(0.05)
    assert dict(objects.requests) == {"GET": 1, "LIST": 1}
    watch.end()
    assert await asyncio.gather(*waiting) == [state] * 5


async def test_a_waiter_with_a_newer_version_waits_for_the_next(clock: ManualClock) -> None:
    """A waiter that joins a poll with a newer version than the poll has read does not get the older version."""
    shop = Shop(MemoryObjectStore(clock), clock)
    old = await shop.jobs.create(a_job(), workflow=b"{}")
    watch = JobWatch(shop.jobs, MemorySignal())  # a signal that the store does not ring, so that the poll lags behind
    first = await _waited(watch, old)
    new = await shop.jobs.evolve_from(old, lambda record: record.cancel(now=clock.now()))
    second = asyncio.create_task(watch.until(new, lambda record: record.rev != new.record.rev, 60))
    await asyncio.sleep(0.05)
    assert not second.done()
    watch.end()
    assert [await waiting for waiting in (first, second)] == [new, new]

"""Waiting for jobs: what many waiters cost the bucket, and how waiting ends."""

import asyncio

import pytest

from app.watch import POLL_S, JobWatch, pause_s
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
    assert pause_s(1) == pause_s(100) == POLL_S
    assert pause_s(2_000) == 10.0


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

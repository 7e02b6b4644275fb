"""A record that this version cannot read, because it is newer or damaged, delays nothing else."""

import json

import pytest

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.errors import JobGone, RecordUnreadable
from storage.jobs.record import JobRecord, Status
from storage.timers import lane_prefix
from tests.support.records import itself
from tests.support.shop import LEASE_S, Shop

pytestmark = pytest.mark.anyio


@pytest.fixture
def shop(objects: ObjectStore, clock: ManualClock) -> Shop:
    return Shop(objects, clock)


async def spoil(shop: Shop, record: JobRecord) -> bytes:
    """Adds a field that only a newer version knows, and returns the previous record."""
    key = keys.record(record.tenant, record.job_id)
    before = (await shop.objects.get(key)).body
    await shop.objects.put(key, json.dumps({**json.loads(before), "from_the_future": 1}).encode())
    return before


async def test_an_unreadable_job_is_an_error(shop: Shop) -> None:
    """Reading an unreadable record fails with its own error and not as an unknown job."""
    record = await shop.queued()
    await spoil(shop, record)
    with pytest.raises(RecordUnreadable):
        await shop.read(record)


@pytest.mark.real_bucket("bytes that are no record")
async def test_the_next_job_is_claimed(shop: Shop) -> None:
    """A claim skips an unreadable job and leaves its queue key to workers that can read it."""
    first, second = await shop.queued(priority=5), await shop.queued()
    before = await spoil(shop, first)
    assert (await shop.claim()).job_id == second.job_id
    await shop.objects.put(keys.record(first.tenant, first.job_id), before)
    assert (await shop.claim()).job_id == first.job_id


async def test_other_lost_jobs_are_recovered(shop: Shop) -> None:
    """Other lost jobs are recovered, and the unreadable job keeps its timer until it can be read."""
    first, second = await shop.claimed(), await shop.claimed()
    before = await spoil(shop, first)
    shop.pass_time(LEASE_S + 1)
    await shop.reaper.sweep()
    assert (await shop.read(second)).status is Status.QUEUED
    assert any(first.job_id in key for key in await shop.keys(lane_prefix("active")))
    await shop.objects.put(keys.record(first.tenant, first.job_id), before)
    await shop.reaper.sweep()
    assert (await shop.read(first)).status is Status.QUEUED


async def test_no_worker_is_requested_for_an_unreadable_job(shop: Shop) -> None:
    """No worker is requested for an unreadable job, which it could not run."""
    first, _ = await shop.queued(), await shop.queued()
    await spoil(shop, first)
    shop.pass_time(minutes=1)
    await shop.reaper.sweep()
    assert shop.launcher.spawned == ["default"]


async def test_other_timers_are_handled(shop: Shop) -> None:
    """Timers after that of an unreadable job are handled."""
    first, second = await shop.completed(), await shop.completed()
    await spoil(shop, first.record)
    shop.pass_time(days=8)
    assert (await shop.reaper.sweep())["job"] == 1
    with pytest.raises(JobGone):
        await shop.read(second.record)


async def test_the_job_list_omits_an_unreadable_job(shop: Shop) -> None:
    """A page of jobs omits the unreadable job and shows the others."""
    first, second = await shop.queued(), await shop.queued()
    await spoil(shop, first)
    page = await shop.jobs.page(first.tenant, itself, limit=10, cursor=None)
    assert [row.job_id for row in page.rows] == [second.job_id]

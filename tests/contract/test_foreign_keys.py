"""Objects that are none of ours, among index keys and timers: they are passed over or deleted, and delay nothing."""

import uuid

import pytest

from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.index_keys import OUTBOX, QUEUE, dead_letters_prefix, list_prefix
from storage.jobs.record import Status
from storage.timers import LANES, lane_prefix
from tests.support.shop import Shop

pytestmark = pytest.mark.anyio

FOREIGN = "0-not-ours"
"""Sorts before every key of ours."""


@pytest.fixture
def shop(objects: ObjectStore, clock: ManualClock) -> Shop:
    return Shop(objects, clock)


@pytest.mark.real_bucket("keys that are not ours in a LIST")
async def test_in_a_list_of_jobs(shop: Shop) -> None:
    """The page is short of a row, not broken; nor is the count of a quota."""
    record = await shop.queued()
    for status in (None, Status.QUEUED):
        await shop.objects.put(list_prefix(record.tenant, status) + FOREIGN, b"")
        page = await shop.jobs.page(record.tenant, status=status, limit=10, cursor=None)
        assert [row.job_id for row in page.jobs] == [record.job_id]
    assert (await shop.stores.active_jobs.of(record.tenant, at_most=100)).queued == 1


@pytest.mark.parametrize("folder", [QUEUE + "default/", *map(lane_prefix, LANES)])
async def test_before_what_the_reaper_looks_for(shop: Shop, folder: str) -> None:
    """It is removed, and the lost ticket behind it is found."""
    await shop.objects.put(folder + FOREIGN, b"")
    await shop.queued()
    shop.pass_time(minutes=1)
    await shop.reaper.sweep()
    assert shop.launcher.spawned == ["default"]
    assert folder + FOREIGN not in await shop.keys(folder)


@pytest.mark.real_bucket("keys that are not ours in a LIST")
async def test_among_events_that_are_due(shop: Shop) -> None:
    """It is removed; what is due is still found."""
    ref = await shop.stores.deliveries.test("default", "https://h.example/", str(uuid.uuid4()))
    await shop.objects.put(OUTBOX + FOREIGN, b"")
    shop.pass_time(1)
    entries = (await shop.stores.outbox.due()).entries
    assert [entry.ref for entry in entries] == [ref]
    assert OUTBOX + FOREIGN not in await shop.keys(OUTBOX)


async def test_among_dead_letters(shop: Shop) -> None:
    """It is removed, and shown to no one."""
    prefix = dead_letters_prefix("default")
    await shop.objects.put(prefix + FOREIGN, b"")
    assert await shop.stores.deliveries.dead_letters("default", limit=10, after="") == ([], None)
    assert await shop.keys(prefix) == ()

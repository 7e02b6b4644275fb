"""Foreign objects among index keys and timers are skipped or deleted, and delay nothing."""

import uuid

import pytest

from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.index_keys import OUTBOX, QUEUE, dead_letters_prefix, list_prefix
from storage.jobs.filters import JobFilter
from storage.jobs.record import Status
from storage.timers import LANES, lane_prefix
from tests.support.records import itself
from tests.support.shop import Shop

pytestmark = pytest.mark.anyio

FOREIGN = "0-not-ours"
"""It sorts before every key of this project."""


@pytest.fixture
def shop(objects: ObjectStore, clock: ManualClock) -> Shop:
    return Shop(objects, clock)


@pytest.mark.real_bucket("foreign keys in a LIST")
async def test_a_foreign_key_in_a_job_list_is_skipped(shop: Shop) -> None:
    """A foreign key appears neither on a page of jobs nor in the count of a quota."""
    record = await shop.queued()
    for status in (None, Status.QUEUED):
        await shop.objects.put(list_prefix(record.tenant, status) + FOREIGN, b"")
        page = await shop.jobs.page(record.tenant, itself, JobFilter(status=status), limit=10, cursor=None)
        assert [row.job_id for row in page.rows] == [record.job_id]
    assert (await shop.stores.active_jobs.of(record.tenant, at_most=100)).queued == 1


@pytest.mark.parametrize("folder", [QUEUE + "default/", *map(lane_prefix, LANES)])
async def test_a_foreign_key_does_not_stop_the_reaper(shop: Shop, folder: str) -> None:
    """The reaper deletes a foreign key and finds the lost ticket after it."""
    await shop.objects.put(folder + FOREIGN, b"")
    await shop.queued()
    shop.pass_time(minutes=1)
    await shop.reaper.sweep()
    assert shop.launcher.spawned == ["default"]
    assert folder + FOREIGN not in await shop.keys(folder)


@pytest.mark.real_bucket("foreign keys in a LIST")
async def test_a_foreign_key_among_outbox_entries_is_deleted(shop: Shop) -> None:
    """A foreign key is deleted, and the due outbox entry is found."""
    ref = await shop.stores.deliveries.test("default", "https://h.example/", str(uuid.uuid4()))
    await shop.objects.put(OUTBOX + FOREIGN, b"")
    shop.pass_time(1)
    entries = (await shop.stores.outbox.due()).entries
    assert [entry.ref for entry in entries] == [ref]
    assert OUTBOX + FOREIGN not in await shop.keys(OUTBOX)


async def test_a_foreign_key_among_dead_letters_is_deleted(shop: Shop) -> None:
    """A foreign key is deleted and not shown as a dead letter."""
    prefix = dead_letters_prefix("default")
    await shop.objects.put(prefix + FOREIGN, b"")
    assert await shop.stores.deliveries.dead_letters("default", limit=10, after="") == ([], None)
    assert await shop.keys(prefix) == ()

"""Queued jobs that no worker is coming for."""

import pytest

from storage.clock import ManualClock
from storage.hint_keys import QUEUE
from storage.hints import queue_key
from storage.launcher import NoLauncher
from storage.objects import ObjectStore
from tests.support.records import a_job
from tests.support.shop import Shop

pytestmark = pytest.mark.anyio


@pytest.fixture
def shop(objects: ObjectStore, clock: ManualClock) -> Shop:
    return Shop(objects, clock)


async def test_lost_tickets_are_spawned_again(shop: Shop) -> None:
    """As many as are missing, once they have been missed for a while."""
    for _ in range(3):
        await shop.queued()
    await shop.launcher.spawn("default")
    assert not await shop.reaper.sweep()
    shop.pass_time(31)
    assert await shop.reaper.sweep() == {"spawned": 2}
    assert await shop.launcher.waiting("default") == 3
    assert not await shop.reaper.sweep()


async def test_each_pool_is_counted_for_itself(shop: Shop) -> None:
    """A ticket of one pool runs no job of another."""
    await shop.queued(pool="default")
    await shop.queued(pool="h100")
    await shop.launcher.spawn("default")
    shop.pass_time(31)
    assert await shop.reaper.sweep() == {"spawned": 1}
    assert await shop.launcher.waiting("h100") == 1


async def test_stale_hints_are_dropped_and_count_as_no_job(shop: Shop) -> None:
    """Of jobs that run, of jobs that never came about, and of nothing at all."""
    running = await shop.claimed()
    stale = queue_key(running.model_copy(update={"attempt": 0}))
    for hint in (stale, queue_key(a_job(created_at=shop.clock.now())), "queue/default/nonsense"):
        await shop.objects.put(hint, b"")
    shop.pass_time(20)
    assert await shop.reaper.sweep() == {"dropped": 1}
    shop.pass_time(11 * 60)
    done = await shop.reaper.sweep()
    assert done["dropped"] == 2
    assert stale not in await shop.keys(QUEUE)


async def test_permanent_workers_need_no_tickets(objects: ObjectStore, clock: ManualClock) -> None:
    """They look at the queue by themselves."""
    shop = Shop(objects, clock, NoLauncher())
    await shop.queued()
    shop.pass_time(31)
    assert not await shop.reaper.sweep()

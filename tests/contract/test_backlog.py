"""Queued jobs that no worker is coming for."""

import pytest

from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.hint_keys import QUEUE
from storage.jobs.hints import queue_key
from storage.jobs.record import DAY_S, Status
from storage.launcher import NoLauncher
from tests.support.records import a_job
from tests.support.shop import Shop
from workers.upkeep.backlog import LOOKED_AT

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


async def test_nobody_waits_for_ever(shop: Shop) -> None:
    """A job without a queue limit fails after a week, or after as long as it would be kept; its receiver is told."""
    usual = await shop.queued(webhook_url="https://a.example/hook", webhook_events=("failed",))
    patient = await shop.queued(retain_s=30 * DAY_S)
    shop.pass_time(days=7, seconds=-1)
    await shop.reaper.sweep()
    assert (await shop.read(usual)).status is Status.QUEUED
    shop.pass_time(2)
    await shop.reaper.sweep()
    ended = await shop.read(usual)
    assert (ended.error, [event.name for event in ended.events]) == ("no worker was free within 7 days", ["failed"])
    assert (await shop.read(patient)).status is Status.QUEUED
    assert await shop.keys(QUEUE) == (queue_key(patient),)


async def test_what_waited_too_long_is_found_behind_better_jobs(shop: Shop) -> None:
    """More wait before it than a sweep looks at."""
    old = await shop.queued(priority=-1)
    shop.pass_time(days=7, seconds=1)
    for _ in range(LOOKED_AT):
        await shop.queued()
    shop.pass_time(31)
    await shop.reaper.sweep()
    assert (await shop.read(old)).status is Status.FAILED

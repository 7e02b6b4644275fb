"""Queued jobs for which no worker is on its way."""

import pytest

from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.index_keys import QUEUE
from storage.jobs.index import queue_key
from storage.jobs.record import DAY_S, Status
from storage.launcher import NoLauncher
from tests.support.records import a_job
from tests.support.shop import Shop
from workers.upkeep.backlog import MAX_CHECKED

pytestmark = pytest.mark.anyio


@pytest.fixture
def shop(objects: ObjectStore, clock: ManualClock) -> Shop:
    return Shop(objects, clock)


@pytest.mark.real_bucket("the order of a LIST")
async def test_lost_tickets_are_spawned_again(shop: Shop) -> None:
    """The reaper requests as many workers as are missing, once they have been missing for a while."""
    for _ in range(3):
        await shop.queued()
    await shop.launcher.spawn("default")
    assert not await shop.reaper.sweep()
    shop.pass_time(31)
    assert await shop.reaper.sweep() == {"spawned": 2}
    assert await shop.launcher.waiting("default") == 3
    assert not await shop.reaper.sweep()


async def test_each_pool_is_counted_separately(shop: Shop) -> None:
    """A ticket of one pool does not count for jobs of another pool."""
    await shop.queued(pool="default")
    await shop.queued(pool="h100")
    await shop.launcher.spawn("default")
    shop.pass_time(31)
    assert await shop.reaper.sweep() == {"spawned": 1}
    assert await shop.launcher.waiting("h100") == 1


async def test_stale_index_keys_are_dropped_and_count_as_no_job(shop: Shop) -> None:
    """Stale index keys, keys of jobs that do not exist and unreadable keys are deleted and request no worker."""
    running = await shop.claimed()
    stale = queue_key(running.model_copy(update={"attempt": 0}))
    for key in (stale, queue_key(a_job(created_at=shop.clock.now())), "queue/default/nonsense"):
        await shop.objects.put(key, b"")
    shop.pass_time(20)
    assert await shop.reaper.sweep() == {"dropped": 1}
    shop.pass_time(11 * 60)
    done = await shop.reaper.sweep()
    assert done["dropped"] == 2
    assert stale not in await shop.keys(QUEUE)


async def test_permanent_workers_need_no_tickets(objects: ObjectStore, clock: ManualClock) -> None:
    """No worker is requested where permanent workers poll the queue."""
    shop = Shop(objects, clock, NoLauncher())
    await shop.queued()
    shop.pass_time(31)
    assert not await shop.reaper.sweep()


async def test_no_job_waits_for_ever(shop: Shop) -> None:
    """A job without a queue limit fails after a week, or after its longer retention time, and its webhook is sent."""
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


async def test_an_overdue_job_is_found_behind_jobs_of_higher_priority(shop: Shop) -> None:
    """A job that waited too long fails even if more jobs precede it than a sweep checks."""
    old = await shop.queued(priority=-1)
    shop.pass_time(days=7, seconds=1)
    for _ in range(MAX_CHECKED):
        await shop.queued()
    shop.pass_time(31)
    await shop.reaper.sweep()
    assert (await shop.read(old)).status is Status.FAILED


async def _fails_to_start(shop: Shop, times: int, pool: str = "default") -> None:
    for number in range(times):
        await shop.stores.engine_starts.begin(pool, f"w{number}")
        await shop.stores.engine_starts.fail(pool, f"w{number}", "the engine ended", ("no kernel image",))


async def test_jobs_of_an_engine_that_cannot_start_fail(shop: Shop) -> None:
    """Three failed starts fail the queued jobs with the engine's last lines and pause worker requests of this pool."""
    job = await shop.queued(webhook_url="https://a.example/hook", webhook_events=("failed",))
    other = await shop.queued(pool="h100")
    shop.pass_time(31)
    await _fails_to_start(shop, 2)
    assert await shop.reaper.sweep() == {"spawned": 2}
    await _fails_to_start(shop, 1)
    shop.pass_time(1)
    later = [await shop.queued() for _ in range(3)]
    shop.pass_time(31)
    assert await shop.reaper.sweep() == {"failed": 1}
    ended = await shop.read(job)
    assert ended.error_detail is not None
    assert (ended.status, ended.error_detail.code, ended.error_detail.retryable) == (
        Status.FAILED,
        "engine_unavailable",
        True,
    )
    assert ended.error == "the engine could not be started, 3 times in a row: the engine ended"
    assert ended.error_detail.log_tail == ("no kernel image",)
    assert [event.name for event in ended.events] == ["failed"]
    assert [(await shop.read(queued)).status for queued in (other, *later)] == [Status.QUEUED] * 4
    await shop.launcher.cancel("default-1")
    assert not await shop.reaper.sweep()
    shop.pass_time(300)
    assert await shop.reaper.sweep() == {"spawned": 1}


async def test_jobs_stay_queued_while_another_worker_runs(shop: Shop) -> None:
    """Failed starts on a broken host fail no job of a pool that has a running worker."""
    await shop.claimed()
    waiting = await shop.queued()
    await _fails_to_start(shop, 3)
    shop.pass_time(31)
    assert not await shop.reaper.sweep()
    assert (await shop.read(waiting)).status is Status.QUEUED


async def test_jobs_fail_when_containers_die_during_their_start(shop: Shop) -> None:
    """A start that neither succeeds nor fails within its time counts as a failed start."""
    job = await shop.queued()
    for number in range(3):
        await shop.stores.engine_starts.begin("default", f"w{number}")
    shop.pass_time(61)
    assert await shop.reaper.sweep() == {"failed": 1}
    assert (await shop.read(job)).error == (
        "the engine could not be started, 3 times in a row: its container ended while the engine was starting"
    )

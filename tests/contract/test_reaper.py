"""Recovery of running jobs whose worker was lost, on the in-memory store and the real S3 server."""

import asyncio
import uuid
from collections import Counter
from datetime import timedelta

import pytest

from storage.bucket.budget import current_owner
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.errors import JobGone, PreconditionFailed
from storage.index_keys import QUEUE
from storage.jobs.models import ProgressDetails
from storage.jobs.record import JobRecord, Status
from storage.jobs.timers import ABANDONED, YOUNG, job_timer
from storage.timers import LANES, Lane, Timer, lane_prefix
from tests.support.records import CREATED, a_job
from tests.support.shop import LEASE_S, MAX_ATTEMPTS, Shop
from workers.upkeep.reaper import AT_A_TIME, LONGEST, PAGE, Reaper, TimerSweep

pytestmark = pytest.mark.anyio


@pytest.fixture
def shop(objects: ObjectStore, clock: ManualClock) -> Shop:
    return Shop(objects, clock)


async def test_a_job_with_a_valid_lease_is_not_changed(shop: Shop) -> None:
    """A job whose lease has not expired is not changed."""
    record = await shop.claimed()
    shop.pass_time(LEASE_S - 1)
    assert not await shop.reaper.sweep()
    assert await shop.read(record) == record


async def test_a_lost_job_is_queued_again(shop: Shop) -> None:
    """A job whose lease has expired is queued with a new worker request, and its next claim is attempt 2."""
    record = await shop.claimed()
    shop.pass_time(LEASE_S + 1)
    assert await shop.reaper.sweep() == {"job": 1, "spawned": 1}
    assert (await shop.read(record)).status is Status.QUEUED
    assert shop.launcher.spawned == ["default"]
    assert (await shop.claim()).attempt == 2


async def test_a_job_that_loses_every_worker_fails(shop: Shop) -> None:
    """A job fails after its last attempt has lost its worker, and not before."""
    record = await shop.claimed()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert (await shop.read(record)).attempt == attempt
        shop.pass_time(LEASE_S + 1)
        await shop.reaper.sweep()
        if attempt < MAX_ATTEMPTS:
            await shop.claim()
    ended = await shop.read(record)
    assert ended.status is Status.FAILED
    assert ended.error_detail is not None
    assert (ended.error_detail.code, ended.error_detail.attempt) == ("worker_lost", MAX_ATTEMPTS)


async def test_a_cancelled_job_with_a_lost_worker_ends_as_cancelled(shop: Shop) -> None:
    """A cancelled job that loses its worker is not run again."""
    record = await shop.claimed()
    await shop.jobs.evolve("default", record.job_id, lambda r: r.cancel(now=CREATED))
    shop.pass_time(LEASE_S + 1)
    assert await shop.reaper.sweep() == {"job": 1}
    assert (await shop.read(record)).error == "Cancelled by user"


async def test_a_job_above_its_timeout_is_not_run_again(shop: Shop) -> None:
    """timeout_s is enforced even if the worker was lost."""
    record = await shop.claimed(timeout_s=30)
    shop.pass_time(LEASE_S + 1)
    assert await shop.reaper.sweep() == {"job": 1}
    detail = (await shop.read(record)).error_detail
    assert detail is not None
    assert detail.code == "timeout"


async def test_released_attempts_do_not_count(shop: Shop) -> None:
    """An attempt that a worker released does not count towards the maximum."""
    record = await shop.claimed()
    now = shop.clock.now()
    for _ in range(5):
        await shop.jobs.evolve("default", record.job_id, lambda r: r.release(attempt=r.attempt, now=now))
        record = await shop.claim()
    for _ in range(MAX_ATTEMPTS - 1):
        shop.pass_time(LEASE_S + 1)
        await shop.reaper.sweep()
        record = await shop.claim()
    assert (record.attempt, record.given_back) == (5 + MAX_ATTEMPTS, 5)
    shop.pass_time(LEASE_S + 1)
    assert await shop.reaper.sweep() == {"job": 1}


async def test_a_lost_job_keeps_the_engines_last_lines(shop: Shop) -> None:
    """The fault of a lost attempt contains the last lines of its log."""
    record = await shop.claimed()
    await shop.stores.logs.write("default", record.job_id, 1, [f"line {n}" for n in range(100)])
    shop.pass_time(LEASE_S + 1)
    await shop.reaper.sweep()
    fault = (await shop.read(record)).last_fault
    assert fault is not None
    assert fault.log_tail == tuple(f"line {n}" for n in range(80, 100))


@pytest.mark.real_bucket("conditional writes")
async def test_the_lost_worker_is_fenced(shop: Shop) -> None:
    """A lost worker that returns cannot complete the job."""
    record = await shop.claimed()
    shop.pass_time(LEASE_S + 1)
    await shop.reaper.sweep()
    again = await shop.claim()
    with pytest.raises(Exception, match="no longer holds it"):
        await shop.jobs.evolve(
            "default", record.job_id, lambda r: r.complete(attempt=record.attempt, now=CREATED, outputs=())
        )
    assert await shop.read(record) == again


@pytest.mark.real_bucket("conditional writes in a race")
async def test_overlapping_sweeps_requeue_a_job_once(shop: Shop) -> None:
    """One of three concurrent sweeps requeues a lost job."""
    await shop.claimed()
    shop.pass_time(LEASE_S + 1)
    done = await asyncio.gather(*(shop.reaper.sweep() for _ in range(3)))
    assert sum(counts["job"] for counts in done) == 1


async def test_an_unknown_timer_is_fenced_and_deleted(shop: Shop) -> None:
    """An old timer that no version of the record names is deleted after its writer was fenced; a new timer is kept."""
    record = await shop.claimed()
    before = await shop.jobs.read("default", record.job_id)
    stray = job_timer(record, shop.clock.now(), now=shop.clock.now())
    await shop.objects.put(stray.key, b"")
    await shop.reaper.sweep()
    assert stray.key in await shop.keys(lane_prefix("active"))
    shop.pass_time(YOUNG.total_seconds())
    held = before.record.report(
        attempt=1, now=shop.clock.now(), lease_s=LEASE_S, progress=1, details=ProgressDetails(), outputs=()
    )
    before = await shop.jobs.advance(before, held)
    assert await shop.reaper.sweep() == {"job": 1}
    assert await shop.keys(lane_prefix("active")) == ((await shop.read(record)).timer,)
    with pytest.raises(PreconditionFailed):
        await shop.jobs.advance(before, before.record)


async def test_each_version_names_the_only_timer(shop: Shop) -> None:
    """Every version of a job names a timer that exists, and no other timer of the job exists."""
    seen = set()

    async def check(record: JobRecord) -> None:
        timers = [key for lane in LANES for key in await shop.keys(lane_prefix(lane))]
        assert timers == [record.timer]
        seen.add(record.timer)

    await check(await shop.queued())
    record = await shop.claim()
    await check(record)
    now = shop.clock.now()
    await check((await shop.jobs.evolve("default", record.job_id, lambda r: r.release(attempt=1, now=now))).record)
    await check(await shop.claim())
    ended = await shop.jobs.evolve("default", record.job_id, lambda r: r.complete(attempt=2, now=now, outputs=()))
    await check(ended.record)
    assert len(seen) == 5


async def test_a_quiet_bucket_costs_three_requests(clock: ManualClock) -> None:
    """A sweep without due timers makes three requests, however many jobs have finished."""
    objects = MemoryObjectStore(clock)
    shop = Shop(objects, clock)
    for _ in range(200):
        record = await shop.claimed()
        await shop.jobs.evolve("default", record.job_id, lambda r: r.complete(attempt=1, now=CREATED, outputs=()))
    await shop.jobs.settled()
    objects.requests.clear()
    assert not await shop.reaper.sweep()
    assert dict(objects.requests) == {"LIST": 3}


async def test_a_defect_in_one_duty_does_not_stop_the_others(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in one duty is logged, and the sweep continues."""

    class Broken:
        async def sweep(self) -> list[str]:
            raise LookupError("a defect")

    class Working:
        async def sweep(self) -> list[str]:
            return ["done"]

    assert await Reaper(Broken(), Working()).sweep() == Counter({"done": 1})
    assert "LookupError: a defect" in caplog.text


async def test_a_lost_queue_key_is_written_again(shop: Shop) -> None:
    """The timer's handler writes a missing queue key, and the job can be claimed."""
    record = await shop.queued()
    await shop.objects.delete(*await shop.keys(QUEUE))
    assert await shop.queue.claim("default", "w") is None
    shop.pass_time(hours=25)
    await shop.reaper.sweep()
    assert (await shop.claim()).job_id == record.job_id


async def test_a_timer_far_too_early_is_replaced(shop: Shop) -> None:
    """A job's first timer, due after a day for dead submissions, is replaced by a timer for its limit of a week."""
    record = await shop.queued()
    shop.pass_time(hours=25)
    assert await shop.reaper.sweep() == {"job": 1, "spawned": 1}
    waiting = await shop.read(record)
    assert waiting.status is Status.QUEUED
    assert Timer.parse(waiting.timer).due == record.created_at + timedelta(days=7)


async def test_a_lost_worker_does_not_wait_for_removals(clock: ManualClock) -> None:
    """Timers of finished jobs have their own lane."""
    shop = Shop(MemoryObjectStore(clock), clock)
    for _ in range(3):
        await shop.completed(retain_s=1)
    lost = await shop.claimed()
    assert await shop.keys(lane_prefix("active")) == (lost.timer,)
    assert len(await shop.keys(lane_prefix("retained"))) == 3


async def test_a_timer_without_a_record_is_postponed(clock: ManualClock) -> None:
    """The timer of a draft is postponed until the submission is old, so that no sweep reads it before."""
    shop = Shop(MemoryObjectStore(clock), clock)
    draft = await shop.jobs.prepare(a_job(created_at=clock.now(), queue_timeout_s=1), workflow=b"{}")
    shop.pass_time(minutes=11)
    assert (await shop.reaper.sweep())["job"] == 1
    (moved,) = await shop.keys(lane_prefix("active"))
    assert Timer.parse(moved).due == draft.created_at + ABANDONED
    accepted = await shop.jobs.accept(draft)
    assert accepted.record.timer in await shop.keys(lane_prefix("active"))


async def test_the_time_of_a_sweep_is_limited(clock: ManualClock) -> None:
    """Slow lanes take turns within the time of a sweep, and the remaining timers are left to the next one."""
    objects, handled = MemoryObjectStore(clock), list[str]()

    class Slow:
        async def on_due(self, timer: Timer) -> Timer | None:
            handled.append(timer.lane)
            clock.set(clock.now() + LONGEST / 4)
            return None

    for lane in LANES:
        for _ in range(PAGE):
            timer = Timer.new(clock.now(), "batch", "t", str(uuid.uuid4()), armed_at=clock.now(), lane=lane)
            await objects.put(timer.key, b"")
    sweep = TimerSweep({"batch": Slow()}, objects, clock, lease_s=LEASE_S)
    assert await sweep.sweep() == ["batch"] * 4
    assert handled == ["active", "retained"] * 2
    assert len((await objects.list(lane_prefix("active"))).keys) == PAGE - 2


@pytest.mark.parametrize("lane", LANES)
async def test_what_becomes_due_does_not_wait_for_the_sweep(clock: ManualClock, lane: Lane) -> None:
    """A timer that becomes due during a sweep is handled after two turns of the others at most."""
    objects, handled = MemoryObjectStore(clock), list[tuple[str, str]]()

    class Slow:
        async def on_due(self, timer: Timer) -> Timer | None:
            handled.append((timer.tenant, current_owner()))
            clock.set(clock.now() + LONGEST / (10 * AT_A_TIME))
            return None

    async def arm(tenant: str, lane: Lane, seconds: float) -> None:
        due = clock.now() + timedelta(seconds=seconds)
        timer = Timer.new(due, "batch", tenant, str(uuid.uuid4()), armed_at=clock.now(), lane=lane)
        await objects.put(timer.key, b"")

    for _ in range(5 * AT_A_TIME):
        await arm("acme", lane, -1)
    await arm("beta", "active", 1)
    assert len(await TimerSweep({"batch": Slow()}, objects, clock, lease_s=LEASE_S).sweep()) == len(handled)
    assert handled.index(("beta", "beta")) <= 2 * AT_A_TIME
    assert handled[0] == ("acme", "acme")
    assert len(handled) == 5 * AT_A_TIME + 1


async def test_tenants_take_turns_in_a_lane(clock: ManualClock) -> None:
    """A tenant's timer is handled among the first ones, however many earlier timers another tenant has."""
    objects, handled = MemoryObjectStore(clock), list[str]()

    class Slow:
        async def on_due(self, timer: Timer) -> Timer | None:
            handled.append(timer.tenant)
            clock.set(clock.now() + LONGEST / 4)
            return None

    for number in range(PAGE + 2):
        tenant = "acme" if number <= PAGE else "beta"
        armed = clock.now() - timedelta(seconds=PAGE + 2 - number)
        timer = Timer.new(armed, "batch", tenant, str(uuid.uuid4()), armed_at=armed, lane="active")
        await objects.put(timer.key, b"")
    await TimerSweep({"batch": Slow()}, objects, clock, lease_s=LEASE_S).sweep()
    assert "beta" in handled[:2]


@pytest.mark.parametrize("has_ended", [True, False], ids=["an ended job", "a queued job"])
async def test_a_slightly_early_timer_is_kept(clock: ManualClock, has_ended: bool) -> None:
    """Sweeps change neither an early timer nor its record until the record is due."""
    shop = Shop(MemoryObjectStore(clock), clock)
    record = (await shop.completed(retain_s=3600)).record if has_ended else await shop.queued(queue_timeout_s=3600)
    due = Timer.parse(record.timer).due
    later = record.model_copy(update={"retain_s": 3630} if has_ended else {"queue_timeout_s": 3630})
    later = (await shop.jobs.advance(await shop.jobs.read(record.tenant, record.job_id), later)).record
    assert Timer.parse(later.timer).due == due
    for seconds in (3605, 10, 10):
        shop.pass_time(seconds)
        await shop.reaper.sweep()
        assert (await shop.read(record)).rev == later.rev
    shop.pass_time(10)
    await shop.reaper.sweep()
    if has_ended:
        with pytest.raises(JobGone):
            await shop.read(record)
    else:
        assert (await shop.read(record)).status is Status.FAILED

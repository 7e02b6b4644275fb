"""Recovery of running jobs whose worker was lost, over the in-memory store and the real S3 server."""

import asyncio
from collections import Counter

import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.hint_keys import RUNNING
from storage.jobs.hints import running_key
from storage.jobs.record import Status
from tests.support.records import CREATED, a_job
from tests.support.shop import LEASE_S, MAX_ATTEMPTS, Shop
from workers.upkeep.reaper import Reaper

pytestmark = pytest.mark.anyio


@pytest.fixture
def shop(objects: ObjectStore, clock: ManualClock) -> Shop:
    return Shop(objects, clock)


async def test_a_held_job_is_left_alone(shop: Shop) -> None:
    """Its lease has not ended."""
    record = await shop.claimed()
    shop.pass_time(LEASE_S - 1)
    assert not await shop.reaper.sweep()
    assert await shop.read(record) == record


async def test_a_lost_job_is_queued_again(shop: Shop) -> None:
    """A worker is asked for, and the next claim is the next attempt."""
    record = await shop.claimed()
    shop.pass_time(LEASE_S + 1)
    assert await shop.reaper.sweep() == {"requeued": 1, "spawned": 1}
    assert (await shop.read(record)).status is Status.QUEUED
    assert shop.launcher.spawned == ["default"]
    assert await shop.keys(RUNNING) == ()
    assert (await shop.claim()).attempt == 2


async def test_a_job_that_loses_every_worker_fails(shop: Shop) -> None:
    """After the last attempt, and not before."""
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
    assert await shop.keys(RUNNING) == ()


async def test_a_cancelled_job_whose_worker_is_gone_ends_as_cancelled(shop: Shop) -> None:
    """It is not run again."""
    record = await shop.claimed()
    await shop.jobs.evolve("default", record.job_id, lambda r: r.cancel(now=CREATED))
    shop.pass_time(LEASE_S + 1)
    assert await shop.reaper.sweep() == {"failed": 1}
    assert (await shop.read(record)).error == "Cancelled by user"


async def test_a_job_out_of_time_is_not_run_again(shop: Shop) -> None:
    """timeout_s counts also when no worker is there to enforce it."""
    record = await shop.claimed(timeout_s=30)
    shop.pass_time(LEASE_S + 1)
    assert await shop.reaper.sweep() == {"failed": 1}
    detail = (await shop.read(record)).error_detail
    assert detail is not None
    assert detail.code == "timeout"


async def test_attempts_that_were_given_back_do_not_count(shop: Shop) -> None:
    """A worker that went away in peace is no fault."""
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
    assert await shop.reaper.sweep() == {"failed": 1}


async def test_a_lost_job_tells_the_engines_last_lines(shop: Shop) -> None:
    """Of the attempt that was lost: nobody is left to say more."""
    record = await shop.claimed()
    await shop.stores.logs.write("default", record.job_id, 1, [f"line {n}" for n in range(100)])
    shop.pass_time(LEASE_S + 1)
    await shop.reaper.sweep()
    fault = (await shop.read(record)).last_fault
    assert fault is not None
    assert fault.log_tail == tuple(f"line {n}" for n in range(80, 100))


@pytest.mark.real_bucket("conditional writes")
async def test_the_lost_worker_is_fenced(shop: Shop) -> None:
    """It comes back and wants to complete the job: too late."""
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
async def test_overlapping_sweeps_do_it_once(shop: Shop) -> None:
    """Three reapers at once: one of them requeues."""
    await shop.claimed()
    shop.pass_time(LEASE_S + 1)
    done = await asyncio.gather(*(shop.reaper.sweep() for _ in range(3)))
    assert sum(counts["requeued"] for counts in done) == 1


async def test_stale_hints_are_dropped(shop: Shop) -> None:
    """Of jobs that are over, of attempts that are over, and of nothing at all."""
    record = await shop.claimed()
    await shop.jobs.evolve("default", record.job_id, lambda r: r.complete(attempt=1, now=CREATED, outputs=()))
    await shop.jobs.settled()
    for stale in (running_key(record), running_key(a_job(attempt=1)), "running/default/nonsense"):
        await shop.objects.put(stale, b"")
    assert await shop.reaper.sweep() == {"dropped": 3}
    assert await shop.keys(RUNNING) == ()


async def test_the_hint_of_a_claim_in_flight_is_kept(shop: Shop) -> None:
    """It is written before the claim is: dropping it would lose the job's recovery."""
    record = a_job()
    await shop.jobs.create(record, workflow=b"{}")
    hint = running_key(record.claim(worker="w", now=CREATED, lease_s=1))
    await shop.objects.put(hint, b"")
    assert not await shop.reaper.sweep()
    assert await shop.keys(RUNNING) == (hint,)


async def test_a_quiet_bucket_costs_three_requests(clock: ManualClock) -> None:
    """However many jobs have finished."""
    objects = MemoryObjectStore(clock)
    shop = Shop(objects, clock)
    for _ in range(200):
        record = await shop.claimed()
        await shop.jobs.evolve("default", record.job_id, lambda r: r.complete(attempt=1, now=CREATED, outputs=()))
    await shop.jobs.settled()
    objects.requests.clear()
    assert not await shop.reaper.sweep()
    assert dict(objects.requests) == {"LIST": 3}


async def test_a_defect_in_one_duty_keeps_no_other_from_its_own(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the sweep goes on."""

    class Broken:
        async def sweep(self) -> list[str]:
            raise LookupError("a defect")

    class Diligent:
        async def sweep(self) -> list[str]:
            return ["done"]

    assert await Reaper(Broken(), Diligent()).sweep() == Counter({"done": 1})
    assert "LookupError: a defect" in caplog.text

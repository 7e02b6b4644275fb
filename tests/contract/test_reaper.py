"""Recovery of running jobs whose worker was lost, over the in-memory store and the real S3 server."""

import asyncio
from datetime import timedelta

import pytest

from infra.compose import make_stores, reaper
from infra.settings import Settings
from storage.clock import ManualClock
from storage.hint_keys import RUNNING
from storage.hints import running_key
from storage.launcher import MemoryLauncher
from storage.memory import MemoryObjectStore
from storage.objects import ObjectStore
from storage.record import JobRecord, Status
from storage.signal import MemorySignal
from tests.support.records import CREATED, a_job

pytestmark = pytest.mark.anyio

LEASE_S = 60
MAX_ATTEMPTS = 3


class Shop:
    """Stores, a queue and a reaper on one clock."""

    def __init__(self, objects: ObjectStore, clock: ManualClock) -> None:
        self.objects = objects
        self.clock = clock
        self.launcher = MemoryLauncher()
        settings = Settings(bucket="tests", lease_s=LEASE_S, max_attempts=MAX_ATTEMPTS)
        self.stores = make_stores(settings, objects, MemorySignal(), clock)
        self.jobs, self.queue = self.stores.jobs, self.stores.queue
        self.reaper = reaper(settings, self.stores, self.launcher)

    def pass_time(self, seconds: float) -> None:
        self.clock.set(self.clock.now() + timedelta(seconds=seconds))

    async def claimed(self, timeout_s: int = 3600) -> JobRecord:
        """A job that a worker has just begun."""
        await self.jobs.create(a_job(timeout_s=timeout_s), workflow=b"{}")
        return await self.claim()

    async def claim(self) -> JobRecord:
        stored = await self.queue.claim("default", "w")
        assert stored is not None
        return stored.record

    async def read(self, record: JobRecord) -> JobRecord:
        return (await self.jobs.read("default", record.job_id)).record

    async def hints(self) -> tuple[str, ...]:
        return (await self.objects.list(RUNNING)).keys


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
    assert await shop.hints() == ()
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
    assert await shop.hints() == ()


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
    for stale in (running_key(record), running_key(a_job(attempt=1)), "running/default/nonsense"):
        await shop.objects.put(stale, b"")
    assert await shop.reaper.sweep() == {"dropped": 3}
    assert await shop.hints() == ()


async def test_the_hint_of_a_claim_in_flight_is_kept(shop: Shop) -> None:
    """It is written before the claim is: dropping it would lose the job's recovery."""
    record = a_job()
    await shop.jobs.create(record, workflow=b"{}")
    hint = running_key(record.claim(worker="w", now=CREATED, lease_s=1))
    await shop.objects.put(hint, b"")
    assert not await shop.reaper.sweep()
    assert await shop.hints() == (hint,)


async def test_a_quiet_bucket_costs_three_requests(clock: ManualClock) -> None:
    """However many jobs have finished."""
    objects = MemoryObjectStore(clock)
    shop = Shop(objects, clock)
    for _ in range(200):
        record = await shop.claimed()
        await shop.jobs.evolve("default", record.job_id, lambda r: r.complete(attempt=1, now=CREATED, outputs=()))
    objects.requests.clear()
    assert not await shop.reaper.sweep()
    assert dict(objects.requests) == {"LIST": 3}

"""Jobs of the queue that are read ahead and claimed later, on the in-memory store and the real S3 server."""

import random
import sys
from datetime import timedelta

import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.jobs.queue import MAX_BACKOFF_S, JobQueue
from storage.jobs.record import Status
from storage.jobs.store import JobStore
from storage.signal import MemorySignal
from tests.support.records import a_job

pytestmark = pytest.mark.anyio


@pytest.fixture
def jobs(objects: ObjectStore, clock: ManualClock) -> JobStore:
    return JobStore(objects, clock, MemorySignal())


@pytest.fixture
def queue(jobs: JobStore, objects: ObjectStore, clock: ManualClock) -> JobQueue:
    return JobQueue(jobs, objects, clock, lease_s=60, chance=random.Random(1))  # noqa: S311  repeatable


async def timers(objects: ObjectStore) -> set[str]:
    return set((await objects.list("timers/")).keys)


async def test_a_candidate_is_claimed_by_one_write(jobs: JobStore, queue: JobQueue, objects: ObjectStore) -> None:
    """Reading a candidate changes no record, and its claim names the timer that was written with it."""
    created = await jobs.create(a_job(), workflow=b"{}")
    candidate = await queue.candidate(await queue.look("default"))
    assert candidate is not None
    assert (await jobs.read("default", created.record.job_id)).record == created.record
    claimed = await queue.take(candidate, "w")
    assert claimed is not None
    assert (claimed.record.status, claimed.workflow) == (Status.RUNNING, b"{}")
    await jobs.settled()
    assert await timers(objects) == {claimed.record.timer}


async def test_a_candidate_of_long_ago_is_claimed_with_a_new_timer(
    jobs: JobStore, queue: JobQueue, objects: ObjectStore, clock: ManualClock
) -> None:
    """A candidate whose timer a sweep could have removed is claimed with another one, and the first is deleted."""
    await jobs.create(a_job(), workflow=b"{}")
    candidate = await queue.candidate(await queue.look("default"))
    assert candidate is not None
    clock.set(clock.now() + timedelta(hours=1))
    claimed = await queue.take(candidate, "w")
    assert claimed is not None
    await jobs.settled()
    assert await timers(objects) == {claimed.record.timer}
    assert claimed.record.timer not in candidate.ahead.keys


@pytest.mark.parametrize("how", ["claimed", "cancelled"])
async def test_a_candidate_that_changed_is_not_claimed(
    jobs: JobStore, queue: JobQueue, objects: ObjectStore, clock: ManualClock, how: str
) -> None:
    """A candidate that was claimed or cancelled meanwhile is not claimed, and its timer is deleted."""
    created = await jobs.create(a_job(), workflow=b"{}")
    candidate = await queue.candidate(await queue.look("default"))
    assert candidate is not None
    if how == "claimed":
        other = JobQueue(JobStore(objects, clock, MemorySignal()), objects, clock, lease_s=60)
        assert await other.claim("default", "other") is not None
    else:
        await jobs.evolve("default", created.record.job_id, lambda record: record.cancel(now=clock.now()))
    before = (await jobs.read("default", created.record.job_id)).record
    assert await queue.take(candidate, "w") is None
    assert (await jobs.read("default", created.record.job_id)).record == before
    await jobs.settled()
    assert candidate.ahead.timer.key not in await timers(objects)


async def test_a_worker_survives_any_number_of_lost_races(clock: ManualClock) -> None:
    """The pause after a lost race stays bounded after more losses than a float has powers of two."""

    class NoPause(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert (a, b) <= (0, MAX_BACKOFF_S)
            return 0.0

    objects = MemoryObjectStore(clock)
    jobs = JobStore(objects, clock, MemorySignal())
    queue = JobQueue(jobs, objects, clock, lease_s=60, chance=NoPause())
    created = await jobs.create(a_job(), workflow=b"{}")
    candidate = await queue.candidate(await queue.look("default"))
    assert candidate is not None
    await jobs.evolve("default", created.record.job_id, lambda record: record.cancel(now=clock.now()))
    for _ in range(sys.float_info.max_exp + 10):
        assert await queue.take(candidate, "w") is None
    await jobs.settled()


async def test_a_worker_that_lost_a_candidate_spreads_out(jobs: JobStore, queue: JobQueue, clock: ManualClock) -> None:
    """After a lost candidate the next ones are picked at random among those of the best priority."""
    for number in range(10):
        await jobs.create(a_job(created_at=clock.now() + timedelta(seconds=number)), workflow=b"{}")
    await jobs.create(a_job(priority=-1), workflow=b"{}")
    entries = await queue.look("default")
    first = await queue.candidate(entries)
    assert first is not None
    assert first.entry == entries[0]
    await jobs.evolve("default", first.record.job_id, lambda record: record.cancel(now=clock.now()))
    assert await queue.take(first, "w") is None
    left = await queue.look("default")
    picked = [await queue.candidate(left) for _ in range(8)]
    keys = {candidate.entry.key for candidate in picked if candidate is not None}
    assert len(keys) > 2
    assert {candidate.record.priority for candidate in picked if candidate is not None} == {0}

"""The job store and the queue, over the in-memory store and the real S3 server."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.errors import BadCursor, JobNotFound, PreconditionFailed, StorageUnavailable, TransitionRefused
from storage.index_keys import QUEUE, list_prefix
from storage.jobs.index import list_key, queue_key, status_key
from storage.jobs.queue import CANDIDATES, JobQueue
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import MAX_LISTS, JobStore
from storage.signal import MemorySignal, job_topic, queue_topic
from tests.support.records import CREATED, a_job
from tests.support.shop import Shop

pytestmark = pytest.mark.anyio

GRAPH = b'{"1": {}}'


@pytest.fixture
def signal() -> MemorySignal:
    return MemorySignal()


@pytest.fixture
def jobs(objects: ObjectStore, clock: ManualClock, signal: MemorySignal) -> JobStore:
    return JobStore(objects, clock, signal)


@pytest.fixture
def queue(jobs: JobStore, objects: ObjectStore, clock: ManualClock) -> JobQueue:
    return JobQueue(jobs, objects, clock, lease_s=60)


def with_metadata(record: JobRecord, **pairs: str) -> JobRecord:
    return record.model_copy(update={"metadata": record.metadata | pairs})


async def test_a_created_job_is_read_back(jobs: JobStore, signal: MemorySignal) -> None:
    """With its workflow as it came; whoever waits for work is woken."""
    record = a_job(priority=3, metadata={"a": "b"})
    with signal.listen(queue_topic("default")) as bell:
        created = await jobs.create(record, workflow=GRAPH)
        assert await bell.wait(1)
    read = await jobs.read("default", record.job_id)
    assert read == created
    assert read.record.model_copy(update={"nonce": "", "timer": ""}) == record
    assert await jobs.workflow("default", record.job_id) == GRAPH


@pytest.mark.parametrize("job_id", ["0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10", "../../x", "", "ü"])
@pytest.mark.real_bucket("keys that no server would list")
async def test_an_unknown_job_is_not_found(jobs: JobStore, job_id: str) -> None:
    """Ids that no key can hold are unknown too."""
    with pytest.raises(JobNotFound):
        await jobs.read("default", job_id)
    with pytest.raises(JobNotFound):
        await jobs.workflow("default", job_id)


async def test_another_tenants_job_is_unknown(jobs: JobStore) -> None:
    """The tenant is part of every key."""
    record = a_job()
    await jobs.create(record, workflow=GRAPH)
    with pytest.raises(JobNotFound):
        await jobs.read("other", record.job_id)
    assert (await jobs.page("other", status=None, limit=10, cursor=None)).jobs == ()


@pytest.mark.real_bucket("conditional writes")
async def test_the_same_id_is_accepted_once(jobs: JobStore) -> None:
    """job.json is created, never overwritten."""
    record = a_job()
    await jobs.create(record, workflow=GRAPH)
    with pytest.raises(PreconditionFailed):
        await jobs.create(record, workflow=GRAPH)


async def test_every_change_raises_the_revision(jobs: JobStore, signal: MemorySignal) -> None:
    """And rings for those who wait for this job."""
    record = a_job()
    await jobs.create(record, workflow=GRAPH)
    with signal.listen(job_topic("default", record.job_id)) as bell:
        changed = await jobs.evolve("default", record.job_id, lambda r: with_metadata(r, x="y"))
        assert await bell.wait(1)
    assert (changed.record.rev, changed.record.metadata) == (1, {"x": "y"})


async def test_a_change_that_changes_nothing_is_not_written(jobs: JobStore) -> None:
    """The same record back means: leave it."""
    record = a_job()
    created = await jobs.create(record, workflow=GRAPH)
    assert (await jobs.evolve("default", record.job_id, lambda r: r)).etag == created.etag


@pytest.mark.real_bucket("conditional writes in a race")
async def test_concurrent_changes_lose_nothing(jobs: JobStore) -> None:
    """Each writer that lost a race applies its change to what the winner wrote."""
    record = a_job()
    await jobs.create(record, workflow=GRAPH)
    await asyncio.gather(
        *(
            jobs.evolve("default", record.job_id, lambda r, n=n: with_metadata(r, **{f"k{n}": "v"}))  # type: ignore[misc]
            for n in range(3)
        )
    )
    read = await jobs.read("default", record.job_id)
    assert (read.record.rev, set(read.record.metadata)) == (3, {"k0", "k1", "k2"})


async def test_a_refused_change_writes_nothing(jobs: JobStore) -> None:
    """What the change raises is what the caller sees."""
    record = a_job()
    created = await jobs.create(record, workflow=GRAPH)
    await jobs.evolve_from(created, lambda r: r.cancel(now=CREATED))
    with pytest.raises(TransitionRefused):
        await jobs.evolve("default", record.job_id, lambda r: r.claim(worker="w", now=CREATED, lease_s=1))


@pytest.mark.real_bucket("the order of a LIST")
async def test_pages_are_newest_first_and_complete(jobs: JobStore) -> None:
    """Following the cursor gives every job once."""
    created = [a_job(created_at=CREATED + timedelta(seconds=n)) for n in range(7)]
    for record in created:
        await jobs.create(record, workflow=GRAPH)
    found: list[str] = []
    cursor = None
    while True:
        page = await jobs.page("default", status=None, limit=3, cursor=cursor)
        found += [record.job_id for record in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == [record.job_id for record in reversed(created)]


async def test_pages_by_status(jobs: JobStore, queue: JobQueue) -> None:
    """A job is listed under the status that it has, and under no other."""
    for _ in range(3):
        await jobs.create(a_job(), workflow=GRAPH)
    claimed = await queue.claim("default", "w")
    assert claimed is not None
    await jobs.evolve_from(claimed, lambda r: r.complete(attempt=1, now=CREATED, outputs=()))
    assert await queue.claim("default", "w") is not None
    counts = {status: len((await jobs.page("default", status=status, limit=10, cursor=None)).jobs) for status in Status}
    assert counts == {Status.QUEUED: 1, Status.RUNNING: 1, Status.COMPLETED: 1, Status.FAILED: 0}


async def test_stale_hints_are_skipped_and_dropped(jobs: JobStore, objects: ObjectStore) -> None:
    """A crash between commit and clean-up leaves a hint too many: no list shows it twice."""
    stored = await jobs.create(a_job(), workflow=GRAPH)
    failed = await jobs.evolve_from(stored, lambda r: r.cancel(now=CREATED))
    stale = status_key(failed.record, Status.QUEUED)
    await objects.put(stale, b"")
    await objects.put(list_key(a_job()), b"")
    assert (await jobs.page("default", status=Status.QUEUED, limit=5, cursor=None)).jobs == ()
    assert len((await jobs.page("default", status=None, limit=5, cursor=None)).jobs) == 1
    assert stale not in (await objects.list(list_prefix("default", "queued"))).keys


async def test_a_hint_without_a_job_is_dropped_when_it_is_old(
    jobs: JobStore, objects: ObjectStore, clock: ManualClock
) -> None:
    """A young one may belong to a submission in flight, and stays."""
    hint = list_key(a_job(created_at=clock.now()))
    await objects.put(hint, b"")
    for minutes, left in ((9, (hint,)), (2, ())):
        clock.set(clock.now() + timedelta(minutes=minutes))
        assert (await jobs.page("default", status=None, limit=5, cursor=None)).jobs == ()
        assert (await objects.list(list_prefix("default", None))).keys == left


async def test_stale_hints_make_a_page_short_not_dear(jobs: JobStore, objects: ObjectStore) -> None:
    """Where hints are stale by the dozen a page costs few LISTs, and following the cursor still gives every job."""
    wanted = a_job()
    await jobs.create(wanted, workflow=GRAPH)
    for n in range(1, 20):
        await objects.put(list_key(a_job(created_at=CREATED + timedelta(seconds=n))), b"")
    objects.requests.clear()  # type: ignore[attr-defined]  # both stores count
    first = await jobs.page("default", status=None, limit=2, cursor=None)
    assert objects.requests["LIST"] == MAX_LISTS  # type: ignore[attr-defined]  # as above
    found, cursor = list(first.jobs), first.next_cursor
    while cursor is not None:
        page = await jobs.page("default", status=None, limit=2, cursor=cursor)
        found, cursor = [*found, *page.jobs], page.next_cursor
    assert [record.job_id for record in found] == [wanted.job_id]


@pytest.mark.parametrize("cursor", ["", "x", "%%%", "ü", "YWJj", "../../x"])
async def test_a_foreign_cursor_is_refused(jobs: JobStore, cursor: str) -> None:
    """Only what this store issued is a cursor."""
    with pytest.raises(BadCursor):
        await jobs.page("default", status=None, limit=5, cursor=cursor)


async def test_a_page_costs_the_page_alone(clock: ManualClock) -> None:
    """One LIST and 50 GETs, with 100 jobs and with 20,000."""
    costs = []
    for count in (100, 20_000):
        objects = MemoryObjectStore(clock)
        jobs = JobStore(objects, clock, MemorySignal())
        for n in range(count):
            record = a_job(created_at=CREATED + timedelta(milliseconds=n))
            await objects.put(list_key(record), b"")
            await objects.put(keys.record("default", record.job_id), record.model_dump_json().encode())
        objects.requests.clear()
        assert len((await jobs.page("default", status=None, limit=50, cursor=None)).jobs) == 50
        costs.append(dict(objects.requests))
    assert costs == [{"LIST": 1, "GET": 50}] * 2


async def test_a_page_of_the_real_bucket_costs_the_same(s3_objects: ObjectStore, clock: ManualClock) -> None:
    """On the real server too, with more index entries than one LIST answer holds."""
    jobs = JobStore(s3_objects, clock, MemorySignal())
    records = [a_job(created_at=CREATED + timedelta(milliseconds=n)) for n in range(1_050)]
    await asyncio.gather(*(s3_objects.put(list_key(record), b"") for record in records))
    for record in records[-5:]:
        await s3_objects.put(keys.record("default", record.job_id), record.model_dump_json().encode())
    s3_objects.requests.clear()  # type: ignore[attr-defined]  # both stores count
    page = await jobs.page("default", status=None, limit=5, cursor=None)
    assert [record.job_id for record in page.jobs] == [record.job_id for record in reversed(records[-5:])]
    assert dict(s3_objects.requests) == {"LIST": 1, "GET": 5}  # type: ignore[attr-defined]  # as above


# The queue.


async def test_the_best_job_is_claimed_first(jobs: JobStore, queue: JobQueue) -> None:
    """Higher priority first, then older first; then nothing is left."""
    wanted = [
        a_job(priority=5, created_at=CREATED + timedelta(seconds=9)),
        a_job(priority=0, created_at=CREATED),
        a_job(priority=0, created_at=CREATED + timedelta(seconds=1)),
        a_job(priority=-5, created_at=CREATED),
    ]
    for record in reversed(wanted):
        await jobs.create(record, workflow=GRAPH)
    claimed = [await queue.claim("default", f"w{n}") for n in range(5)]
    assert [stored and stored.record.job_id for stored in claimed] == [*(record.job_id for record in wanted), None]


async def test_pools_have_queues_of_their_own(jobs: JobStore, queue: JobQueue) -> None:
    """A worker claims for its own pool only."""
    await jobs.create(a_job(pool="h100"), workflow=GRAPH)
    assert await queue.claim("default", "w") is None
    assert await queue.claim("h100", "w") is not None


@pytest.mark.parametrize(
    ("workers", "count"),
    [
        (8, 6),
        pytest.param(32, 24, marks=pytest.mark.soak("contract/test_job_store.py::test_each_job_is_claimed_once")),
    ],
)
@pytest.mark.real_bucket("conditional writes in a race")
async def test_each_job_is_claimed_once(
    jobs: JobStore, rivals: Sequence[ObjectStore], clock: ManualClock, signal: MemorySignal, workers: int, count: int
) -> None:
    """More workers at once than jobs: every job is claimed, and none twice."""
    for _ in range(count):
        await jobs.create(a_job(), workflow=GRAPH)

    async def work(number: int) -> list[str]:
        objects, mine = rivals[number % len(rivals)], []
        own = JobQueue(JobStore(objects, clock, signal), objects, clock, lease_s=60)
        while (stored := await own.claim("default", f"w{number}")) is not None:
            mine.append(stored.record.job_id)
        return mine

    claimed = [job for mine in await asyncio.gather(*map(work, range(workers))) for job in mine]
    assert len(claimed) == len(set(claimed)) == count


async def test_hints_that_lead_nowhere_hide_no_job(jobs: JobStore, queue: JobQueue, objects: ObjectStore) -> None:
    """Young hints of submissions that never came about, more than one LIST brings, stand before a real job."""
    await asyncio.gather(*(objects.put(queue_key(a_job(priority=9)), b"") for _ in range(CANDIDATES + 1)))
    created = await jobs.create(a_job(), workflow=GRAPH)
    claimed = await queue.claim("default", "w")
    assert claimed is not None
    assert claimed.record.job_id == created.record.job_id


async def test_hints_of_earlier_attempts_are_dropped(jobs: JobStore, queue: JobQueue, objects: ObjectStore) -> None:
    """One that a claimer left behind goes; one of a release that is about to be committed stays."""
    created = await jobs.create(a_job(), workflow=GRAPH)
    claimed = await queue.claim("default", "w")
    assert claimed is not None
    for hint in (queue_key(created.record), queue_key(claimed.record)):
        await objects.put(hint, b"")
    assert await queue.claim("default", "v") is None
    assert (await objects.list("queue/default/")).keys == (queue_key(claimed.record),)


@pytest.mark.real_bucket("deletes and LISTs")
async def test_hints_of_finished_and_lost_jobs_are_dropped(
    jobs: JobStore, queue: JobQueue, objects: ObjectStore, clock: ManualClock
) -> None:
    """A young hint without a record may be a submission in flight, an old one is stale."""
    stored = await jobs.create(a_job(), workflow=GRAPH)
    over = await jobs.evolve_from(stored, lambda r: r.cancel(now=CREATED))
    lost = a_job(created_at=clock.now())
    for hint in (queue_key(over.record), queue_key(lost), "queue/default/nonsense"):
        await objects.put(hint, b"")
    assert await queue.claim("default", "w") is None
    assert (await objects.list("queue/default/")).keys == (queue_key(lost),)
    clock.set(clock.now() + timedelta(minutes=11))
    assert await queue.claim("default", "w") is None
    assert (await objects.list("queue/default/")).keys == ()


async def test_a_released_job_can_be_claimed_again(jobs: JobStore, queue: JobQueue, objects: ObjectStore) -> None:
    """With the next attempt's number, even if the first claimer's clean-up arrives late."""
    await jobs.create(a_job(), workflow=GRAPH)
    claimed = await queue.claim("default", "w")
    assert claimed is not None
    released = await jobs.evolve_from(claimed, lambda r: r.release(attempt=1, now=CREATED))
    await objects.delete(queue_key(a_job(**released.record.model_dump(exclude={"attempt"}))))  # late, of attempt 1
    again = await queue.claim("default", "v")
    assert again is not None
    assert again.record.attempt == 2


async def test_a_slow_submission_is_announced_again(clock: ManualClock) -> None:
    """Its uploads took minutes, then a sweep took its hints for those of one that had died: it is found still."""

    class Slow(MemoryObjectStore):
        async def put(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
            if key.endswith("workflow.json"):
                shop.pass_time(minutes=2)
                await shop.reaper.sweep()
                assert not await shop.keys(QUEUE)
            return await super().put(key, body, content_type=content_type)

    shop = Shop(Slow(clock), clock)
    record = a_job(created_at=clock.now())
    shop.pass_time(minutes=9)
    await shop.jobs.create(record, workflow=b"{}")
    assert (await shop.claim()).job_id == record.job_id


async def test_a_failed_submission_is_cleared_away(clock: ManualClock) -> None:
    """Its workflow was stored, and its timer was not: the timer is written again, and a day later it acts."""

    class FailsOnce(MemoryObjectStore):
        failed = False

        async def put(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
            if key.startswith("timers/") and not self.failed:
                self.failed = True
                raise StorageUnavailable("away")
            return await super().put(key, body, content_type=content_type)

    shop = Shop(FailsOnce(clock), clock)
    with pytest.raises(StorageUnavailable):
        await shop.queued()
    assert len(await shop.keys("tenants/default/jobs/")) == 1
    shop.pass_time(hours=26)
    await shop.reaper.sweep()
    (tombstone,) = await shop.keys("tenants/default/jobs/")
    assert tombstone.endswith("/job.json")

"""The job store and the queue, on the in-memory store and the real S3 server."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.errors import (
    AssetNotFound,
    BadCursor,
    JobNotFound,
    PreconditionFailed,
    StorageUnavailable,
    TransitionRefused,
)
from storage.index_keys import QUEUE, list_prefix
from storage.jobs.filters import JobFilter
from storage.jobs.index import list_key, queue_key, status_key
from storage.jobs.models import Input, InputFile
from storage.jobs.queue import CANDIDATES, JobQueue
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import LARGE_RECORD, JobStore
from storage.pages import MAX_LISTS
from storage.signal import MemorySignal, job_topic, queue_topic
from tests.support.records import CREATED, a_job, itself
from tests.support.shop import Shop
from workflows.json_weight import WEIGHT_OF_PART

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
    """A created job is read back with its unchanged workflow, and processes that wait for the queue are woken."""
    record = a_job(priority=3, metadata={"a": "b"})
    with signal.listen(queue_topic("default")) as listener:
        created = await jobs.create(record, workflow=GRAPH)
        assert await listener.wait(1)
    read = await jobs.read("default", record.job_id)
    assert read == created
    assert read.record.model_copy(update={"nonce": "", "timer": ""}) == record
    assert await jobs.workflow("default", record.job_id) == GRAPH


@pytest.mark.parametrize("job_id", ["0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10", "../../x", "", "ü"])
@pytest.mark.real_bucket("keys that no server would list")
async def test_an_unknown_job_is_not_found(jobs: JobStore, job_id: str) -> None:
    """A job that does not exist and an id that is no valid key are not found."""
    with pytest.raises(JobNotFound):
        await jobs.read("default", job_id)
    with pytest.raises(JobNotFound):
        await jobs.workflow("default", job_id)


async def test_another_tenants_job_is_unknown(jobs: JobStore) -> None:
    """A job can be read and listed only by its own tenant."""
    record = a_job()
    await jobs.create(record, workflow=GRAPH)
    with pytest.raises(JobNotFound):
        await jobs.read("other", record.job_id)
    assert (await jobs.page("other", itself, limit=10, cursor=None)).rows == ()


@pytest.mark.real_bucket("conditional writes")
async def test_the_same_id_is_accepted_once(jobs: JobStore) -> None:
    """A job with an existing id is refused, because job.json is never overwritten by a creation."""
    record = a_job()
    await jobs.create(record, workflow=GRAPH)
    with pytest.raises(PreconditionFailed):
        await jobs.create(record, workflow=GRAPH)


async def test_every_change_increments_the_revision(jobs: JobStore, signal: MemorySignal) -> None:
    """Every change increments the revision and wakes processes that wait for this job."""
    record = a_job()
    await jobs.create(record, workflow=GRAPH)
    with signal.listen(job_topic("default", record.job_id)) as listener:
        changed = await jobs.evolve("default", record.job_id, lambda r: with_metadata(r, x="y"))
        assert await listener.wait(1)
    assert (changed.record.rev, changed.record.metadata) == (1, {"x": "y"})


async def test_an_unchanged_record_is_not_written(jobs: JobStore) -> None:
    """A change that returns the same record writes nothing."""
    record = a_job()
    created = await jobs.create(record, workflow=GRAPH)
    assert (await jobs.evolve("default", record.job_id, lambda r: r)).etag == created.etag


@pytest.mark.real_bucket("conditional writes in a race")
async def test_concurrent_changes_lose_nothing(jobs: JobStore) -> None:
    """A writer that lost a race applies its change to the winner's record."""
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
    """An exception of the change reaches the caller, and nothing is written."""
    record = a_job()
    created = await jobs.create(record, workflow=GRAPH)
    await jobs.evolve_from(created, lambda r: r.cancel(now=CREATED))
    with pytest.raises(TransitionRefused):
        await jobs.evolve("default", record.job_id, lambda r: r.claim(worker="w", now=CREATED, lease_s=1))


@pytest.mark.real_bucket("the order of a LIST")
async def test_pages_are_newest_first_and_complete(jobs: JobStore) -> None:
    """Following the cursor returns every job once, newest first."""
    created = [a_job(created_at=CREATED + timedelta(seconds=n)) for n in range(7)]
    for record in created:
        await jobs.create(record, workflow=GRAPH)
    found: list[str] = []
    cursor = None
    while True:
        page = await jobs.page("default", itself, limit=3, cursor=cursor)
        found += [record.job_id for record in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == [record.job_id for record in reversed(created)]


async def test_pages_are_filtered_by_status(jobs: JobStore, queue: JobQueue) -> None:
    """A job is listed under its current status and under no other."""
    for _ in range(3):
        await jobs.create(a_job(), workflow=GRAPH)
    claimed = await queue.claim("default", "w")
    assert claimed is not None
    await jobs.evolve_from(claimed, lambda r: r.complete(attempt=1, now=CREATED, outputs=()))
    assert await queue.claim("default", "w") is not None
    counts = {
        status: len((await jobs.page("default", itself, JobFilter(status=status), limit=10, cursor=None)).rows)
        for status in Status
    }
    assert counts == {Status.QUEUED: 1, Status.RUNNING: 1, Status.COMPLETED: 1, Status.FAILED: 0}


async def test_stale_index_keys_are_skipped_and_deleted(jobs: JobStore, objects: ObjectStore) -> None:
    """A stale index key, left by a crash after a commit, lists no job twice and is deleted."""
    stored = await jobs.create(a_job(), workflow=GRAPH)
    failed = await jobs.evolve_from(stored, lambda r: r.cancel(now=CREATED))
    stale = status_key(failed.record, Status.QUEUED)
    await objects.put(stale, b"")
    await objects.put(list_key(a_job()), b"")
    assert (await jobs.page("default", itself, JobFilter(status=Status.QUEUED), limit=5, cursor=None)).rows == ()
    assert len((await jobs.page("default", itself, limit=5, cursor=None)).rows) == 1
    assert stale not in (await objects.list(list_prefix("default", "queued"))).keys


async def test_an_old_index_key_without_a_job_is_deleted(
    jobs: JobStore, objects: ObjectStore, clock: ManualClock
) -> None:
    """A recent index key without a job is kept, since its submission may be in progress, and an old key is deleted."""
    key = list_key(a_job(created_at=clock.now()))
    await objects.put(key, b"")
    for minutes, left in ((9, (key,)), (2, ())):
        clock.set(clock.now() + timedelta(minutes=minutes))
        assert (await jobs.page("default", itself, limit=5, cursor=None)).rows == ()
        assert (await objects.list(list_prefix("default", None))).keys == left


async def test_stale_index_keys_make_a_page_short_not_expensive(jobs: JobStore, objects: ObjectStore) -> None:
    """Many stale index keys cost a page few LISTs, and following the cursor still returns every job."""
    expected = a_job()
    await jobs.create(expected, workflow=GRAPH)
    for n in range(1, 20):
        await objects.put(list_key(a_job(created_at=CREATED + timedelta(seconds=n))), b"")
    objects.requests.clear()  # type: ignore[attr-defined]  # both stores count
    first = await jobs.page("default", itself, limit=2, cursor=None)
    assert objects.requests["LIST"] == MAX_LISTS  # type: ignore[attr-defined]  # as above
    found, cursor = list(first.rows), first.next_cursor
    while cursor is not None:
        page = await jobs.page("default", itself, limit=2, cursor=cursor)
        found, cursor = [*found, *page.rows], page.next_cursor
    assert [record.job_id for record in found] == [expected.job_id]


@pytest.mark.parametrize("cursor", ["", "x", "%%%", "ü", "YWJj", "../../x"])
async def test_a_foreign_cursor_is_refused(jobs: JobStore, cursor: str) -> None:
    """A cursor that this store did not issue is refused."""
    with pytest.raises(BadCursor):
        await jobs.page("default", itself, limit=5, cursor=cursor)


async def test_the_cost_of_a_page_does_not_depend_on_the_number_of_jobs(clock: ManualClock) -> None:
    """A page of 50 costs one LIST and 50 GETs, with 100 jobs and with 20,000."""
    costs = []
    for count in (100, 20_000):
        objects = MemoryObjectStore(clock)
        jobs = JobStore(objects, clock, MemorySignal())
        for n in range(count):
            record = a_job(created_at=CREATED + timedelta(milliseconds=n))
            await objects.put(list_key(record), b"")
            await objects.put(keys.record("default", record.job_id), record.model_dump_json().encode())
        objects.requests.clear()
        assert len((await jobs.page("default", itself, limit=50, cursor=None)).rows) == 50
        costs.append(dict(objects.requests))
    assert costs == [{"LIST": 1, "GET": 50}] * 2


async def test_a_page_of_the_real_bucket_costs_the_same(s3_objects: ObjectStore, clock: ManualClock) -> None:
    """A page costs the same on the real server, even with more index keys than one LIST returns."""
    jobs = JobStore(s3_objects, clock, MemorySignal())
    records = [a_job(created_at=CREATED + timedelta(milliseconds=n)) for n in range(1_050)]
    await asyncio.gather(*(s3_objects.put(list_key(record), b"") for record in records))
    for record in records[-5:]:
        await s3_objects.put(keys.record("default", record.job_id), record.model_dump_json().encode())
    s3_objects.requests.clear()  # type: ignore[attr-defined]  # both stores count
    page = await jobs.page("default", itself, limit=5, cursor=None)
    assert [record.job_id for record in page.rows] == [record.job_id for record in reversed(records[-5:])]
    assert dict(s3_objects.requests) == {"LIST": 1, "GET": 5}  # type: ignore[attr-defined]  # as above


# The queue.


async def test_jobs_are_claimed_by_priority_and_age(jobs: JobStore, queue: JobQueue) -> None:
    """Jobs of higher priority are claimed first, then older jobs."""
    expected = [
        a_job(priority=5, created_at=CREATED + timedelta(seconds=9)),
        a_job(priority=0, created_at=CREATED),
        a_job(priority=0, created_at=CREATED + timedelta(seconds=1)),
        a_job(priority=-5, created_at=CREATED),
    ]
    for record in reversed(expected):
        await jobs.create(record, workflow=GRAPH)
    claimed = [await queue.claim("default", f"w{n}") for n in range(5)]
    assert [stored and stored.record.job_id for stored in claimed] == [*(record.job_id for record in expected), None]


async def test_pools_have_their_own_queues(jobs: JobStore, queue: JobQueue) -> None:
    """A worker claims only jobs of its own pool."""
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
    """Every job is claimed exactly once by more concurrent workers than jobs."""
    for _ in range(count):
        await jobs.create(a_job(), workflow=GRAPH)

    async def work(number: int) -> list[str]:
        objects, own_jobs = rivals[number % len(rivals)], []
        own = JobQueue(JobStore(objects, clock, signal), objects, clock, lease_s=60)
        while (stored := await own.claim("default", f"w{number}")) is not None:
            own_jobs.append(stored.record.job_id)
        return own_jobs

    claimed = [job for own_jobs in await asyncio.gather(*map(work, range(workers))) for job in own_jobs]
    assert len(claimed) == len(set(claimed)) == count


async def test_index_keys_without_jobs_do_not_hide_a_job(jobs: JobStore, queue: JobQueue, objects: ObjectStore) -> None:
    """A job is claimed although more recent index keys without jobs precede it than a LIST returns."""
    await asyncio.gather(*(objects.put(queue_key(a_job(priority=9)), b"") for _ in range(CANDIDATES + 1)))
    created = await jobs.create(a_job(), workflow=GRAPH)
    claimed = await queue.claim("default", "w")
    assert claimed is not None
    assert claimed.record.job_id == created.record.job_id


async def test_index_keys_of_earlier_attempts_are_deleted(
    jobs: JobStore, queue: JobQueue, objects: ObjectStore
) -> None:
    """A queue key of an earlier attempt is deleted, and that of a release about to be committed is kept."""
    created = await jobs.create(a_job(), workflow=GRAPH)
    claimed = await queue.claim("default", "w")
    assert claimed is not None
    for key in (queue_key(created.record), queue_key(claimed.record)):
        await objects.put(key, b"")
    assert await queue.claim("default", "v") is None
    assert (await objects.list("queue/default/")).keys == (queue_key(claimed.record),)


async def test_keys_of_a_claim_are_not_written_ahead_for_each_absent_job(clock: ManualClock) -> None:
    """Once a queue key has had no record, a claim reads the following records before it writes its keys."""
    objects = MemoryObjectStore(clock)
    shop = Shop(objects, clock)
    for number in range(3 * CANDIDATES):
        absent = a_job(created_at=clock.now() + timedelta(milliseconds=number), priority=9)
        await objects.put(queue_key(absent), b"")
    shop.pass_time(60)
    await shop.queued()
    objects.requests.clear()
    await shop.claim()
    assert objects.requests["PUT"] <= 5


@pytest.mark.real_bucket("deletes and LISTs")
async def test_index_keys_of_finished_and_lost_jobs_are_deleted(
    jobs: JobStore, queue: JobQueue, objects: ObjectStore, clock: ManualClock
) -> None:
    """Queue keys of finished jobs are deleted at once, and those without a record once they are old."""
    stored = await jobs.create(a_job(), workflow=GRAPH)
    over = await jobs.evolve_from(stored, lambda r: r.cancel(now=CREATED))
    lost = a_job(created_at=clock.now())
    for key in (queue_key(over.record), queue_key(lost), "queue/default/nonsense"):
        await objects.put(key, b"")
    assert await queue.claim("default", "w") is None
    assert (await objects.list("queue/default/")).keys == (queue_key(lost),)
    clock.set(clock.now() + timedelta(minutes=11))
    assert await queue.claim("default", "w") is None
    assert (await objects.list("queue/default/")).keys == ()


async def test_a_released_job_can_be_claimed_again(jobs: JobStore, queue: JobQueue, objects: ObjectStore) -> None:
    """A released job is claimed with the next attempt's number, even if the first claim's clean-up is late."""
    await jobs.create(a_job(), workflow=GRAPH)
    claimed = await queue.claim("default", "w")
    assert claimed is not None
    released = await jobs.evolve_from(claimed, lambda r: r.release(attempt=1, now=CREATED))
    await objects.delete(queue_key(a_job(**released.record.model_dump(exclude={"attempt"}))))  # a late clean-up
    again = await queue.claim("default", "v")
    assert again is not None
    assert again.record.attempt == 2


async def test_index_keys_of_a_slow_submission_are_written_again(clock: ManualClock) -> None:
    """A job whose index keys a sweep deleted during its slow submission can still be claimed."""

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


async def test_a_queue_key_is_written_after_the_files(clock: ManualClock) -> None:
    """A submission whose files are still being copied, or cannot be copied, is not in the queue; it has a timer."""
    seen = []

    class Watched(MemoryObjectStore):
        async def copy(self, source: str, target: str, *, content_type: str) -> None:
            seen.append((await self.list("queue/")).keys + (await self.list("tenants/default/index/")).keys)
            assert len((await self.list("timers/active/")).keys) == len(seen)
            await super().copy(source, target, content_type=content_type)

    shop = Shop(Watched(clock), clock)
    await shop.objects.put("there", b"x")
    for source in ("gone", "there"):
        record = a_job(created_at=clock.now())
        key = keys.input_file("default", record.job_id, 0)
        file = InputFile(name="a.png", key=key, size_bytes=1, content_type="image/png")
        record = record.model_copy(update={"input_files": (file,)})
        try:
            await shop.jobs.create(record, workflow=b"{}", uploads={file: source})
        except AssetNotFound:
            assert source == "gone"
    assert seen == [(), ()]
    assert (await shop.claim()).job_id == record.job_id


async def test_a_failed_submission_is_removed(clock: ManualClock) -> None:
    """A submission whose first timer write failed is removed a day later by a timer that was written again."""

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


async def test_the_event_loop_runs_between_large_records(jobs: JobStore, objects: ObjectStore) -> None:
    """Records of many bytes or lists, read at the same time, are parsed one in each turn of the event loop."""
    turn = 0

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def read(job_id: str) -> int:
        await jobs.read("default", job_id)
        return turn

    many_lists = (Input(node="1", field="value", value=[[]] * (LARGE_RECORD // WEIGHT_OF_PART)),)
    records = [with_metadata(a_job(), text="x" * LARGE_RECORD) for _ in range(4)]
    records += [a_job(inputs=many_lists) for _ in range(4)]
    for record in records:
        await jobs.create(record, workflow=GRAPH)
    counter = asyncio.create_task(count_turns())
    read_in = await asyncio.gather(*(read(record.job_id) for record in records))
    counter.cancel()
    assert len(set(read_in)) == len(records)


async def test_a_page_holds_what_its_row_function_returns(jobs: JobStore) -> None:
    """The row function gets each record of a page, and the page consists of its results."""
    record = a_job()
    await jobs.create(record, workflow=GRAPH)
    page = await jobs.page("default", lambda found: found.job_id, limit=5, cursor=None)
    assert page.rows == (record.job_id,)

"""Consecutive bucket requests of a job, as counts, so that an additional round is noticed on any machine."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import pytest

from storage.batch_record import BatchRecord
from storage.bucket.memory import MemoryObjectStore
from storage.concurrency import AT_ONCE
from storage.index_keys import list_prefix
from storage.jobs.filters import JobFilter
from storage.jobs.index import list_key
from storage.pages import SCAN_S, WAVE, Part, read_page
from storage.stores import Stores
from tests.simulation.virtual_time import VirtualClock, run_virtually
from tests.support.records import CREATED, a_job, itself
from tests.support.rounds import Rounds, SlowBucket, measured_rounds, rounds_of


@pytest.mark.parametrize(("key", "rounds"), [(None, Rounds(2, 8)), ("once", Rounds(3, 9))])
def test_a_job_takes_the_expected_rounds(key: str | None, rounds: Rounds) -> None:
    """A job is accepted in two rounds, or three with an Idempotency-Key, and is completed and read in six more."""
    assert measured_rounds(key) == rounds


@pytest.mark.parametrize(
    ("wanted", "scan", "rounds"),
    [
        (JobFilter(), 1_000, 2),
        (JobFilter(created_before=CREATED), 1_000, 1),
        (JobFilter(metadata={"a": "1"}), 1_000, 4),
        (JobFilter(metadata={"a": "1"}), AT_ONCE, 2),
    ],
)
def test_a_page_of_jobs_takes_the_expected_rounds(wanted: JobFilter, scan: int, rounds: int) -> None:
    """A page takes a round for its LIST, and one for every 16 records that it reads."""

    async def course(stores: Stores, _: SlowBucket) -> Callable[[], Awaitable[object]]:
        for _number in range(3 * AT_ONCE):
            await stores.jobs.create(a_job(), workflow=b"{}")
        return lambda: stores.jobs.page("default", itself, wanted, limit=AT_ONCE, cursor=None, scan=scan)

    assert rounds_of(course) == rounds


def test_a_filtered_page_of_a_slow_bucket_ends_in_time() -> None:
    """A filtered page ends after five seconds with what it has found, and its cursor goes on behind that."""

    async def pages() -> list[int]:
        loop = asyncio.get_running_loop()
        bucket = MemoryObjectStore(VirtualClock(loop))
        for _number in range(6 * WAVE):
            await bucket.put(list_key(a_job()), b"")

        async def slow_row(key: str) -> str:
            await asyncio.sleep(1)
            return key

        read, cursor, found = [], None, set[str]()
        while True:
            began = loop.time()
            page = await read_page(
                bucket, list_prefix("default", None), slow_row, limit=1_000, cursor=cursor, part=Part(scan=1_000)
            )
            assert loop.time() - began < SCAN_S + WAVE / AT_ONCE
            found.update(page.rows)
            read.append(len(page.rows))
            cursor = page.next_cursor
            if cursor is None:
                assert len(found) == sum(read) == 6 * WAVE
                return read

    assert run_virtually(pages) == [2 * WAVE] * 3


def test_a_page_of_batches_takes_the_expected_rounds() -> None:
    """A page of up to 16 batches takes a LIST of the rows, a GET of each record and a LIST of its jobs."""

    async def course(stores: Stores, _: SlowBucket) -> Callable[[], Awaitable[object]]:
        for _number in range(3):
            await stores.batches.accept(await stores.batches.draft(_drafted(stores)), ())
        return lambda: stores.batch_pages.page("default", limit=AT_ONCE, cursor=None)

    assert rounds_of(course) == 3


def test_the_row_of_a_batch_adds_no_round() -> None:
    """A drafted batch is accepted in six rounds: its row is written with the timer of its opening."""

    async def course(stores: Stores, _: SlowBucket) -> Callable[[], Awaitable[object]]:
        draft = await stores.batches.draft(_drafted(stores))
        return lambda: stores.batches.accept(draft, ())

    # Timer and row, the record; timer, the record; and the two deletions of the former timers.
    assert rounds_of(course) == 6


def _drafted(stores: Stores) -> BatchRecord:
    return BatchRecord(tenant="default", batch_id=str(uuid.uuid4()), job_ids=(), created_at=stores.clock.now())

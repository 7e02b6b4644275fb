"""GET /v1/jobs: its rows, and its filters, each with the requests that a page costs."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.config import ApiConfig
from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.jobs.filters import JobFilter
from storage.jobs.index import index_keys, list_key
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import JobStore
from storage.pages import WAVE
from storage.signal import MemorySignal
from tests.support.api_server import BLUE, KEY, Api, running_api, submit, work
from tests.support.records import CREATED, a_job, itself

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
SECOND = timedelta(seconds=1)


async def listed(api: Api, query: str = "") -> list[Json]:
    answer = await api.client.get(f"/v1/jobs{query}")
    assert answer.status_code == 200, answer.text
    rows: list[Json] = answer.json()["jobs"]
    return rows


async def ids(api: Api, query: str) -> list[str]:
    return [row["job_id"] for row in await listed(api, query)]


def text(moment: datetime) -> str:
    return moment.isoformat().replace("+", "%2B")


async def test_a_row_says_what_operators_ask_for(api: Api, clock: ManualClock) -> None:
    """A row has the error code, the end, the metadata, the named workflow and the batch of its job."""
    cancelled = await submit(api, metadata={"order": "1"})
    await api.client.delete(f"/v1/jobs/{cancelled['job_id']}")
    clock.set(clock.now() + SECOND)
    document = {"workflow": BLUE, "input_sets": [[]]}
    batch = (await api.client.post("/v1/batches", json=document)).json()
    await work(api)
    clock.set(clock.now() + SECOND)
    await api.client.post("/v1/workflows/sdxl/jobs", json={"inputs": {"prompt": "a cat"}})
    named, of_batch, failed = await listed(api)
    assert (failed["status"], failed["error_code"], failed["metadata"]) == ("failed", "cancelled", {"order": "1"})
    assert failed["completed_at"] is not None
    assert (failed["workflow_name"], failed["batch_id"]) == (None, None)
    assert (of_batch["status"], of_batch["error_code"]) == ("completed", None)
    assert of_batch["batch_id"] == batch["batch_id"]
    assert (named["workflow_name"], named["completed_at"]) == ("sdxl", None)
    shown = (await api.client.get(f"/v1/jobs/{named['job_id']}")).json()
    assert shown["workflow_name"] == "sdxl"


@pytest.mark.real_bucket("the order of a LIST")
async def test_jobs_are_filtered(api: Api, clock: ManualClock) -> None:
    """Each filter selects its jobs, and several filters select those that pass them all."""
    start, made = clock.now(), []
    for number in range(4):
        clock.set(start + number * SECOND)
        made.append((await submit(api, metadata={"shop": "a" if number < 3 else "b", "n": str(number)}))["job_id"])
    first, second, third, fourth = made
    await api.client.delete(f"/v1/jobs/{second}")
    clock.set(start + 9 * SECOND)
    named = await api.client.post("/v1/workflows/sdxl/jobs", json={"inputs": {"prompt": "a cat"}})
    expected = {
        "?metadata[shop]=a": [third, second, first],
        "?metadata[shop]=a&metadata[n]=2": [third],
        "?metadata[shop]=b&metadata[n]=2": [],
        "?metadata[shop]=a&status=queued": [third, first],
        "?metadata%5Bshop%5D=a&limit=1": [third],
        "?error_code=cancelled": [second],
        "?error_code=cancelled&status=failed": [second],
        "?error_code=timeout": [],
        "?workflow=sdxl": [named.json()["job_id"]],
        "?workflow=wan22": [],
        f"?created_after={text(start + SECOND)}&created_before={text(start + 3 * SECOND)}": [third, second],
        f"?created_before={text(start + SECOND)}": [first],
        f"?created_after={text(start + 3 * SECOND)}&status=queued": [named.json()["job_id"], fourth],
        f"?created_after={text(start + 3 * SECOND)}&metadata[shop]=a": [],
        "?created_before=0001-01-01T00:00:00%2B14:00": [],
        "?created_after=9999-12-31T23:59:59-14:00": [],
        "?created_after=0001-01-01T00:00:00Z&created_before=9999-12-31T23:59:59Z&error_code=cancelled": [second],
    }
    assert {query: await ids(api, query) for query in expected} == expected


@pytest.mark.real_bucket("the order of a LIST")
async def test_the_jobs_of_a_batch_are_listed(api: Api, clock: ManualClock) -> None:
    """The filter by batch pages through exactly the jobs of the batch, among others of the same millisecond."""
    document = {"workflow": BLUE, "input_sets": [[]] * 5}
    await submit(api)
    batch = (await api.client.post("/v1/batches", json=document)).json()
    other = (await api.client.post("/v1/batches", json=document)).json()
    clock.set(clock.now() + SECOND)
    await submit(api)
    found: Counter[str] = Counter()
    cursor = ""
    while cursor is not None:
        query = f"/v1/jobs?batch_id={batch['batch_id']}&limit=2{cursor and '&cursor='}{cursor}"
        page = (await api.client.get(query)).json()
        found.update(row["job_id"] for row in page["jobs"])
        cursor = page["next_cursor"]
    assert found == Counter(job["job_id"] for job in batch["jobs"])
    await api.client.delete(f"/v1/jobs/{other['jobs'][0]['job_id']}")
    query = f"?batch_id={other['batch_id']}&error_code=cancelled"
    assert await ids(api, query) == [other["jobs"][0]["job_id"]]
    assert await ids(api, f"?batch_id={other['batch_id']}&created_before={text(CREATED)}") == []
    for unknown in ("0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10", "..%2Fx"):
        answer = await api.client.get(f"/v1/jobs?batch_id={unknown}")
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/unknown-batch")


async def test_rows_of_another_tenant_never_pass_a_filter(memory_api: Api) -> None:
    """A filter selects among the tenant's own jobs, and a batch of another tenant is unknown."""
    await submit(memory_api, metadata={"shop": "a"})
    document = {"workflow": BLUE, "input_sets": [[]], "metadata": {"shop": "a"}}
    batch = (await memory_api.client.post("/v1/batches", json=document)).json()
    async with await memory_api.client_of("other", "jobs:read") as other:
        for query in ("metadata[shop]=a", "status=queued", "created_after=2000-01-01T00:00:00Z"):
            assert (await other.get(f"/v1/jobs?{query}")).json() == {"jobs": [], "next_cursor": None}
        assert (await other.get(f"/v1/jobs?batch_id={batch['batch_id']}")).status_code == 404
    async with await memory_api.client_of("other", "jobs:write") as other:
        assert (await other.get("/v1/jobs?metadata[shop]=a")).status_code == 403


async def stored_jobs(clock: ManualClock, count: int, **fields: Any) -> tuple[MemoryObjectStore, JobStore]:
    """Return a bucket with `count` jobs, a second apart; every 100th has the metadata `rare`."""
    objects = MemoryObjectStore(clock)
    for number in range(count):
        metadata = {"rare": "1"} if number % 100 == 0 else {}
        record = a_job(created_at=CREATED + number * SECOND, metadata=metadata, **fields)
        await put(objects, record)
    objects.requests.clear()
    return objects, JobStore(objects, clock, MemorySignal())


async def put(objects: MemoryObjectStore, record: JobRecord) -> None:
    for key in (list_key(record), *index_keys(record)):
        await objects.put(key, b"")
    await objects.put(keys.record(record.tenant, record.job_id), record.model_dump_json().encode())


@pytest.mark.parametrize("count", [3_000, 6_000])
async def test_a_filtered_page_costs_at_most_its_limit(clock: ManualClock, count: int) -> None:
    """A filtered page makes one LIST and reads at most `scan` records, however many jobs there are."""
    objects, jobs = await stored_jobs(clock, count)
    page = await jobs.page("default", itself, JobFilter(metadata={"no": "job"}), limit=50, cursor=None, scan=200)
    assert (page.rows, page.next_cursor is None) == ((), False)
    assert dict(objects.requests) == {"LIST": 1, "GET": 200}


async def test_a_filtered_page_stops_when_it_is_full(clock: ManualClock) -> None:
    """A filtered page reads no more records than it needs, but for those of the last wave."""
    objects, jobs = await stored_jobs(clock, 1_000)
    page = await jobs.page("default", itself, JobFilter(metadata={"rare": "1"}), limit=1, cursor=None)
    assert len(page.rows) == 1
    assert dict(objects.requests) == {"LIST": 1, "GET": 2 * WAVE}
    objects.requests.clear()
    await jobs.page("default", itself, JobFilter(workflow_name=None, metadata={}), limit=50, cursor=None)
    assert dict(objects.requests) == {"LIST": 1, "GET": 50}


async def test_following_the_cursor_of_a_filter_finds_every_job(clock: ManualClock) -> None:
    """Pages of a filter, full, short or empty, show each of its jobs once and end."""
    _, jobs = await stored_jobs(clock, 1_050)
    found, cursor, sizes = [], None, []
    while True:
        page = await jobs.page("default", itself, JobFilter(metadata={"rare": "1"}), limit=2, cursor=cursor, scan=90)
        found += [record.created_at for record in page.rows]
        sizes.append(len(page.rows))
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == [CREATED + number * SECOND for number in range(1_000, -1, -100)]
    assert 0 in sizes


@pytest.mark.parametrize("count", [300, 3_000])
async def test_a_period_costs_its_own_jobs(clock: ManualClock, count: int) -> None:
    """A page of a period reads the jobs of that period alone, whether it lies at the end or in the middle."""
    objects, jobs = await stored_jobs(clock, count)
    middle = CREATED + count // 2 * SECOND
    wanted = JobFilter(created_after=middle, created_before=middle + 10 * SECOND)
    page = await jobs.page("default", itself, wanted, limit=50, cursor=None)
    assert [record.created_at for record in page.rows] == [middle + number * SECOND for number in range(9, -1, -1)]
    assert page.next_cursor is None
    assert dict(objects.requests) == {"LIST": 1, "GET": 10}


async def test_an_error_code_reads_failed_jobs_alone(clock: ManualClock) -> None:
    """A page of an error code reads no job that has not failed."""
    objects, jobs = await stored_jobs(clock, 500)
    for number in range(3):
        record = a_job(created_at=CREATED + number * SECOND)
        await put(objects, record.cancel(now=CREATED))
    objects.requests.clear()
    page = await jobs.page("default", itself, JobFilter(error_code="cancelled"), limit=50, cursor=None)
    assert [record.status for record in page.rows] == [Status.FAILED] * 3
    assert dict(objects.requests) == {"LIST": 1, "GET": 3}


async def test_the_limit_of_a_filtered_page_is_a_setting(clock: ManualClock) -> None:
    """`max_scanned_jobs` bounds what one filtered page reads."""
    config = ApiConfig(api_key=KEY, max_scanned_jobs=2)
    objects = MemoryObjectStore(clock)
    async with running_api(objects, clock, config) as api:
        for _ in range(3):
            await submit(api)
        objects.requests.clear()
        page = (await api.client.get("/v1/jobs?workflow=wan22")).json()
        assert (page["jobs"], page["next_cursor"] is None) == ([], False)
        assert dict(objects.requests) == {"LIST": 1, "GET": 2}

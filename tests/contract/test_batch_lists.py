"""GET /v1/batches and `wait` of GET /v1/batches/{batch_id}: what they show, when they end, and what they cost."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from infra.compose.reaper import reaper
from infra.settings import Settings
from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.errors import StorageUnavailable
from storage.index_keys import BATCHES, QUEUE, ListEntry, list_prefix
from storage.launcher import NoLauncher
from tests.support.api_server import BLUE, Api, running_api, work

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
SECOND = timedelta(seconds=1)


async def submit(api: Api, jobs: int, **fields: Any) -> Json:
    answer = await api.client.post("/v1/batches", json={"workflow": BLUE, "input_sets": [[]] * jobs, **fields})
    assert answer.status_code == 202, answer.text
    batch: Json = answer.json()
    return batch


async def listed(api: Api, query: str = "") -> list[Json]:
    answer = await api.client.get(f"/v1/batches{query}")
    assert answer.status_code == 200, answer.text
    rows: list[Json] = answer.json()["batches"]
    return rows


def counted(**counts: int) -> dict[str, int]:
    return {"queued": 0, "running": 0, "completed": 0, "failed": 0, "removed": 0} | counts


async def row_keys(api: Api) -> tuple[str, ...]:
    return (await api.objects.list(list_prefix("default", BATCHES))).keys


@pytest.mark.real_bucket("the order of a LIST")
async def test_batches_are_listed_newest_first(api: Api, clock: ManualClock) -> None:
    """Batches are listed newest first in pages, each with the counts that GET of the batch shows."""
    batches = []
    for number in range(3):
        clock.set(clock.now() + SECOND)
        batches.append(await submit(api, number + 1, metadata={"order": str(number)}))
    await work(api)
    await api.queue.claim("default", "w")
    await api.client.delete(f"/v1/jobs/{batches[2]['jobs'][0]['job_id']}")
    first = (await api.client.get("/v1/batches?limit=2")).json()
    assert [row["batch_id"] for row in first["batches"]] == [batch["batch_id"] for batch in (batches[2], batches[1])]
    second = (await api.client.get(f"/v1/batches?limit=2&cursor={first['next_cursor']}")).json()
    assert (len(second["batches"]), second["next_cursor"]) == (1, None)
    for row in (*first["batches"], *second["batches"]):
        shown = (await api.client.get(row["urls"]["self"])).json()
        assert row == {name: value for name, value in shown.items() if name != "jobs"}
    assert second["batches"][0]["counts"] == counted(completed=1)
    assert (second["batches"][0]["status"], first["batches"][1]["status"]) == ("finished", "running")
    assert first["batches"][0]["counts"] == counted(queued=2, failed=1)


async def test_a_removed_job_counts_as_removed_without_a_read(memory_api: Api) -> None:
    """A page of batches reads no records of removed jobs: one LIST, and a GET and a LIST for each batch."""
    objects = memory_api.objects
    assert isinstance(objects, MemoryObjectStore)
    for _ in range(3):
        batch = await submit(memory_api, 40)
    for job in batch["jobs"][:30]:
        await memory_api.client.delete(f"/v1/jobs/{job['job_id']}?purge=true")
    await memory_api.stores.jobs.settled()
    objects.requests.clear()
    rows = {row["batch_id"]: row for row in await listed(memory_api)}
    assert rows[batch["batch_id"]]["counts"] == counted(queued=10, removed=30)
    assert dict(objects.requests) == {"LIST": 1 + 3, "GET": 3}


async def test_a_long_list_costs_its_page(memory_api: Api, clock: ManualClock) -> None:
    """A page of batches costs the same with more batches behind it."""
    objects = memory_api.objects
    assert isinstance(objects, MemoryObjectStore)
    costs = []
    for _ in range(2):
        for _ in range(5):
            clock.set(clock.now() + SECOND)
            await submit(memory_api, 1)
        objects.requests.clear()
        assert len(await listed(memory_api, "?limit=3")) == 3
        costs.append(dict(objects.requests))
    assert costs == [{"LIST": 4, "GET": 3}] * 2


async def test_an_accepted_batch_adds_one_request(memory_api: Api) -> None:
    """A batch is accepted with one request for its row, in the round of its timer."""
    objects = memory_api.objects
    assert isinstance(objects, MemoryObjectStore)
    await submit(memory_api, 1)
    await memory_api.stores.jobs.settled()
    objects.requests.clear()
    await submit(memory_api, 1)
    assert len(await row_keys(memory_api)) == 2
    # Timer and draft; workflow and record; row, timer and the opened batch; the job's timer and four index keys; timer
    # and the reconciled batch; the ticket.
    assert objects.requests["PUT"] == 2 + 2 + 3 + 5 + 2 + 1


class Dying(MemoryObjectStore):
    """A bucket that fails when a batch is opened, or at the first index key of its jobs."""

    def __init__(self, clock: ManualClock, at: str) -> None:
        super().__init__(clock)
        self.at: str | None = at

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        if self.at == "open" and key.endswith("batch.json"):
            raise StorageUnavailable("it died")
        return await super().replace(key, body, etag=etag, content_type=content_type)

    async def put(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        if self.at == "publish" and key.startswith(QUEUE):
            raise StorageUnavailable("it died")
        return await super().put(key, body, content_type=content_type)


async def test_a_draft_is_not_listed_and_leaves_no_row(clock: ManualClock) -> None:
    """A batch that was never accepted is not listed, and its row is deleted with it."""
    objects = Dying(clock, "open")
    async with running_api(objects, clock) as api:
        document = {"workflow": BLUE, "input_sets": [[]]}
        assert (await api.client.post("/v1/batches", json=document)).status_code == 503
        objects.at = None
        assert await listed(api) == []
        assert len(await row_keys(api)) == 1  # a repeat of the request may still open it
        clock.set(clock.now() + timedelta(hours=26))
        await reaper(Settings(bucket="tests"), api.stores, NoLauncher()).sweep()
        assert await row_keys(api) == ()


async def test_jobs_that_are_not_published_yet_count_as_queued(clock: ManualClock) -> None:
    """Jobs of an accepted batch whose index keys are not written yet count as queued, not as removed."""
    objects = Dying(clock, "publish")
    async with running_api(objects, clock) as api:
        document = {"workflow": BLUE, "input_sets": [[]] * 40}
        assert (await api.client.post("/v1/batches", json=document)).status_code == 503
        objects.at = None
        (row,) = await listed(api)
        assert (row["status"], row["counts"]) == ("queued", counted(queued=40))


async def test_a_lost_row_is_written_again(clock: ManualClock) -> None:
    """The timer of a batch that was interrupted writes its row again."""
    objects = Dying(clock, "publish")
    async with running_api(objects, clock) as api:
        await api.client.post("/v1/batches", json={"workflow": BLUE, "input_sets": [[]]})
        objects.at = None
        await objects.delete(*await row_keys(api))
        clock.set(clock.now() + timedelta(minutes=1))
        await reaper(Settings(bucket="tests"), api.stores, NoLauncher()).sweep()
        assert len(await listed(api)) == 1


async def test_a_stale_row_is_deleted(memory_api: Api, clock: ManualClock) -> None:
    """A row without a batch is skipped, and deleted once no request can still open the batch."""
    key = ListEntry(clock.now(), "0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10", None).key("default", BATCHES)
    await memory_api.objects.put(key, b"")
    for hours, left in ((24, (key,)), (2, ())):
        clock.set(clock.now() + timedelta(hours=hours))
        assert await listed(memory_api) == []
        assert await row_keys(memory_api) == left


async def test_a_removed_batch_is_not_listed(clock: ManualClock) -> None:
    """The row of a batch is deleted when the batch is removed after its time."""
    async with running_api(MemoryObjectStore(clock), clock) as api:
        await submit(api, 1)
        sweeper = reaper(Settings(bucket="tests"), api.stores, NoLauncher())
        for _ in range(3):
            clock.set(clock.now() + timedelta(days=8))
            await sweeper.sweep()
        assert await row_keys(api) == ()
        assert await listed(api) == []


async def test_only_the_tenants_own_batches_are_listed(memory_api: Api) -> None:
    """A tenant sees none of another's batches, even with a cursor of the other's list."""
    for _ in range(2):
        await submit(memory_api, 1)
    cursor = (await memory_api.client.get("/v1/batches?limit=1")).json()["next_cursor"]
    async with await memory_api.client_of("other", "jobs:read") as other:
        for query in ("", f"?cursor={cursor}"):
            assert (await other.get(f"/v1/batches{query}")).json() == {"batches": [], "next_cursor": None}
    async with await memory_api.client_of("default", "jobs:write") as writer:
        assert (await writer.get("/v1/batches")).status_code == 403


@pytest.mark.parametrize(("query", "slug"), [("?limit=0", "invalid-parameter"), ("?cursor=x", "bad-cursor")])
async def test_a_bad_page_is_refused(memory_api: Api, query: str, slug: str) -> None:
    """A page size out of range and a cursor of another list are refused."""
    assert (await memory_api.client.get(f"/v1/batches{query}")).json()["type"] == f"/problems/{slug}"


async def test_a_wait_ends_with_the_batch(memory_api: Api) -> None:
    """With `wait` the response comes when every job has ended, and at once for a batch that is finished."""
    batch = await submit(memory_api, 2)
    await work(memory_api)
    url = f"/v1/batches/{batch['batch_id']}"
    waiting = asyncio.create_task(memory_api.client.get(f"{url}?wait=30"))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await work(memory_api)
    assert (await waiting).json()["status"] == "finished"
    assert (await memory_api.client.get(f"{url}?wait=30")).json()["counts"] == counted(completed=2)


@pytest.mark.real_bucket("ETags of a server")
async def test_a_wait_with_an_etag_ends_at_the_next_change(api: Api) -> None:
    """With If-None-Match the response comes at the next change, and is 304 if there is none."""
    batch = await submit(api, 2)
    url = f"/v1/batches/{batch['batch_id']}"
    etag = {"if-none-match": (await api.client.get(url)).headers["etag"]}
    assert (await api.client.get(url, headers=etag)).status_code == 304
    unchanged = await api.client.get(f"{url}?wait=1", headers=etag)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    waiting = asyncio.create_task(api.client.get(f"{url}?wait=30", headers=etag))
    await asyncio.sleep(0.2)
    await work(api)
    changed = await waiting
    assert (changed.status_code, changed.json()["counts"]) == (200, counted(queued=1, completed=1))
    assert changed.headers["etag"] != etag["if-none-match"]


async def test_the_timer_of_a_batch_changes_no_etag(memory_api: Api, clock: ManualClock) -> None:
    """A commit of the batch's timer, which changes nothing that a response shows, leaves its ETag as it was."""
    batch = await submit(memory_api, 1, webhook_url="https://hooks.example/x")
    url = f"/v1/batches/{batch['batch_id']}"
    etag = (await memory_api.client.get(url)).headers["etag"]
    key = keys.batch("default", batch["batch_id"])
    before = await memory_api.objects.get(key)
    clock.set(clock.now() + timedelta(minutes=1))
    await reaper(Settings(bucket="tests"), memory_api.stores, NoLauncher()).sweep()
    assert (await memory_api.objects.get(key)).head.etag != before.head.etag
    assert (await memory_api.client.get(url)).headers["etag"] == etag


@pytest.mark.parametrize("wait", ["0", "61", "x"])
async def test_a_bad_wait_of_a_batch_is_refused(memory_api: Api, wait: str) -> None:
    """A `wait` out of range is refused before the batch is read."""
    answer = await memory_api.client.get(f"/v1/batches/x?wait={wait}")
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-parameter")

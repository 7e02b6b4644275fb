"""Batches over HTTP and in the bucket: all jobs are accepted or none."""

import asyncio
import base64
from datetime import timedelta
from typing import Any

import pytest

from app.config import ApiConfig
from infra.compose.reaper import reaper
from infra.settings import Settings
from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.errors import BatchGone, StorageUnavailable
from storage.index_keys import QUEUE
from storage.jobs.record import JobRecord
from storage.launcher import NoLauncher
from tests.support.api_server import BLUE, KEY, PNG, Api, running_api

pytestmark = pytest.mark.anyio

Json = dict[str, Any]


def colours(*values: int) -> Json:
    return {"workflow": BLUE, "input_sets": [[{"node": "1", "field": "color", "value": value}] for value in values]}


async def submit(api: Api, document: Json, **headers: str) -> Json:
    response = await api.client.post("/v1/batches", json=document, headers=headers)
    assert response.status_code in (200, 202), response.text
    batch: Json = response.json()
    return batch


async def show(api: Api, batch: Json) -> Json:
    shown: Json = (await api.client.get(f"/v1/batches/{batch['batch_id']}")).json()
    return shown


async def claim(api: Api) -> JobRecord:
    stored = await api.queue.claim("default", "w")
    assert stored is not None
    return stored.record


async def complete(api: Api, record: JobRecord) -> None:
    now = api.stores.clock.now()
    await api.stores.jobs.evolve("default", record.job_id, lambda r: r.complete(attempt=r.attempt, now=now, outputs=()))


async def test_each_input_set_becomes_a_job(api: Api) -> None:
    """Each input set becomes a job in the order of the request, and a worker is requested for each job."""
    batch = await submit(api, {**colours(1, 2, 3), "metadata": {"order": "7"}, "priority": 4})
    assert (batch["status"], batch["total"], batch["counts"]["queued"]) == ("queued", 3, 3)
    assert batch["metadata"] == {"order": "7"}
    for number, job in enumerate(batch["jobs"], 1):
        shown = (await api.client.get(f"/v1/jobs/{job['job_id']}")).json()
        assert (shown["batch_id"], shown["priority"]) == (batch["batch_id"], 4)
        record = (await api.stores.jobs.read("default", job["job_id"])).record
        assert [given.value for given in record.inputs] == [number]
    assert api.services.launcher.spawned == ["default"] * 3  # type: ignore[attr-defined]  # the in-memory one counts
    assert len((await api.client.get("/v1/jobs")).json()["jobs"]) == 3


async def test_a_list_of_complete_jobs_is_a_batch(api: Api) -> None:
    """Complete jobs with their own options are accepted as a batch."""
    batch = await submit(api, {"jobs": [{"workflow": BLUE, "priority": 1}, {"workflow": BLUE, "timeout_s": 9}]})
    first, second = [(await api.stores.jobs.read("default", job["job_id"])).record for job in batch["jobs"]]
    assert (first.priority, second.timeout_s) == (1, 9)


async def test_the_batch_counts_its_jobs(api: Api, clock: ManualClock) -> None:
    """A batch counts its queued, running, completed, failed and removed jobs."""
    batch = await submit(api, colours(1, 2, 3))
    done = await claim(api)
    await complete(api, done)
    await claim(api)
    shown = await show(api, batch)
    assert shown["status"] == "running"
    assert shown["counts"] == {"queued": 1, "running": 1, "completed": 1, "failed": 0, "removed": 0}
    await api.client.delete(f"/v1/jobs/{done.job_id}?purge=true")
    assert (await show(api, batch))["counts"]["removed"] == 1


async def test_the_cost_of_counting_does_not_depend_on_the_number_of_jobs(memory_api: Api) -> None:
    """Counting the jobs of a batch takes one GET and one LIST, even for 200 jobs."""
    objects = memory_api.objects
    assert isinstance(objects, MemoryObjectStore)
    batch = await submit(memory_api, colours(*range(200)))
    objects.requests.clear()
    assert (await show(memory_api, batch))["counts"]["queued"] == 200
    assert dict(objects.requests) == {"GET": 1, "LIST": 1}


@pytest.mark.real_bucket("many writes at once")
async def test_a_cancelled_batch_stops(api: Api) -> None:
    """Cancelling a batch fails its queued jobs, requests cancellation of running jobs and leaves finished jobs."""
    batch = await submit(api, colours(1, 2, 3))
    await complete(api, await claim(api))
    running = await claim(api)
    cancelled = await api.client.delete(f"/v1/batches/{batch['batch_id']}")
    assert cancelled.status_code == 202
    assert cancelled.json()["counts"] == {"queued": 0, "running": 1, "completed": 1, "failed": 1, "removed": 0}
    assert (await api.stores.jobs.read("default", running.job_id)).record.cancel_requested_at is not None
    assert cancelled.json()["cancel_requested_at"] is not None


async def test_one_bad_job_refuses_the_batch(api: Api) -> None:
    """A batch with one bad job is refused with a pointer to that job, and nothing is stored."""
    document = colours(1, 2)
    document["input_sets"].append([{"node": "99", "field": "color", "value": 1}])
    refused = await api.client.post("/v1/batches", json=document)
    assert (refused.status_code, refused.json()["pointer"][:13]) == (422, "/input_sets/2")
    jobs = {"jobs": [{"workflow": BLUE}, {"workflow": {}}]}
    assert (await api.client.post("/v1/batches", json=jobs)).json()["pointer"].startswith("/jobs/1/workflow")
    assert await api.keys() == ()


@pytest.mark.parametrize(
    ("document", "slug"),
    [
        ({}, "batch-ambiguous"),
        ({"workflow": BLUE}, "batch-ambiguous"),
        ({**colours(1), "jobs": []}, "batch-ambiguous"),
        ({"jobs": [{"workflow": BLUE}], "priority": 3}, "batch-ambiguous"),
        ({"workflow": BLUE, "input_sets": []}, "validation-error"),
        ({"jobs": []}, "validation-error"),
        (colours(*range(6)), "too-many-jobs"),
        ({"input_sets": [[]]}, "missing-workflow"),
        ({"workflow": BLUE, "input_sets": [[]], "nonsense": 1}, "validation-error"),
    ],
)
async def test_an_invalid_batch_is_refused(clock: ManualClock, document: Json, slug: str) -> None:
    """An invalid batch gets a problem of its own type, and nothing is stored."""
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY, max_batch_jobs=5)) as api:
        refused = await api.client.post("/v1/batches", json=document)
        assert refused.json()["type"] == f"/problems/{slug}", refused.text
        assert await api.keys() == ()


async def test_an_unknown_batch_is_not_found(api: Api) -> None:
    """A batch that does not exist and an id that is no valid key get 404."""
    for batch_id in ("0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10", "..%2Fx"):
        for method in ("GET", "DELETE"):
            answer = await api.client.request(method, f"/v1/batches/{batch_id}")
            assert answer.status_code == 404


@pytest.mark.real_bucket("bytes of files")
async def test_shared_input_files_are_stored_once(api: Api) -> None:
    """Shared input files are stored once with the batch, and those of an input set with its job."""
    data = base64.b64encode(PNG).decode()
    document = {**colours(1, 2), "media": [{"name": "a.png", "data": data}]}
    document["input_sets"][0].append({"node": "1", "field": "width", "value": data, "type": "image_base64"})
    batch = await submit(api, document)
    stored = [key for key in await api.keys() if "/inputs/" in key]
    first = batch["jobs"][0]["job_id"]
    assert sorted(stored) == sorted(
        [keys.batch_file("default", batch["batch_id"], 0), keys.input_file("default", first, 0)]
    )


async def test_a_repeated_request_finds_the_batch(api: Api) -> None:
    """A repeated request returns the same batch, even while the first request is still in progress."""
    document, key = colours(1, 2, 3), {"idempotency-key": "once"}
    first, second = await asyncio.gather(submit(api, document, **key), submit(api, document, **key))
    again = await api.client.post("/v1/batches", json=document, headers=key)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert first["batch_id"] == second["batch_id"] == again.json()["batch_id"]
    assert len((await api.client.get("/v1/jobs")).json()["jobs"]) == 3


class Dying(MemoryObjectStore):
    """A bucket that fails at the batch's second write, or at the first index key after it."""

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


async def test_jobs_of_an_unaccepted_batch_never_run_and_are_removed(clock: ManualClock) -> None:
    """Jobs that were written before the API died, but never accepted, do not run and are removed."""
    objects = Dying(clock, "open")
    async with running_api(objects, clock) as api:
        assert (await api.client.post("/v1/batches", json=colours(1, 2))).status_code == 503
        objects.at = None
        sweeper = reaper(Settings(bucket="tests"), api.stores, NoLauncher())
        (record,) = [key for key in await api.keys() if key.endswith("batch.json")]
        batch_id = record.split("/")[-2]
        for hours in (1, 25):
            clock.set(clock.now() + timedelta(hours=hours))
            await sweeper.sweep()
            assert await api.queue.claim("default", "w") is None
        with pytest.raises(BatchGone):
            await api.stores.batches.read("default", batch_id)
        assert {key.rsplit("/", 1)[1] for key in await api.keys() if "/jobs/" in key} == {"job.json"}
        clock.set(clock.now() + timedelta(days=31))
        for _ in range(2):
            await sweeper.sweep()
            clock.set(clock.now() + timedelta(days=31))
        assert await api.keys() == ()


async def test_jobs_of_an_accepted_batch_run_without_index_keys(clock: ManualClock) -> None:
    """The reaper writes the missing index keys of an accepted batch a minute after the API died."""
    objects = Dying(clock, "publish")
    async with running_api(objects, clock) as api:
        assert (await api.client.post("/v1/batches", json=colours(1, 2))).status_code == 503
        objects.at = None
        assert await api.queue.claim("default", "w") is None
        clock.set(clock.now() + timedelta(minutes=1))
        await reaper(Settings(bucket="tests"), api.stores, NoLauncher()).sweep()
        assert {(await claim(api)).job_id for _ in range(2)} == {
            job["job_id"] for job in (await api.client.get("/v1/jobs")).json()["jobs"]
        }


async def test_a_repeat_continues_where_the_first_request_died(clock: ManualClock) -> None:
    """A repeat with the same Idempotency-Key uses the jobs that the first request wrote before it died."""
    objects = Dying(clock, "open")
    async with running_api(objects, clock) as api:
        key = {"idempotency-key": "once"}
        assert (await api.client.post("/v1/batches", json=colours(1, 2), headers=key)).status_code == 503
        written = [name for name in await api.keys() if name.endswith("job.json")]
        objects.at = None
        batch = await submit(api, colours(1, 2), **key)
        assert {keys.record("default", job["job_id"]) for job in batch["jobs"]} == set(written)
        assert batch["counts"]["queued"] == 2


async def test_a_batch_is_removed_after_its_jobs(clock: ManualClock) -> None:
    """A batch is removed a week later, but not before its last job; a job that was never claimed fails first and is
    kept.
    """
    async with running_api(MemoryObjectStore(clock), clock) as api:
        batch = await submit(api, colours(1, 2))
        await complete(api, await claim(api))
        sweeper = reaper(Settings(bucket="tests"), api.stores, NoLauncher())
        clock.set(clock.now() + timedelta(days=8))
        await sweeper.sweep()
        shown = await show(api, batch)
        assert (shown["counts"]["removed"], shown["counts"]["failed"]) == (1, 1)
        for _ in range(2):
            clock.set(clock.now() + timedelta(days=8))
            await sweeper.sweep()
        assert (await api.client.get(f"/v1/batches/{batch['batch_id']}")).status_code == 410

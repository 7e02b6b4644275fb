"""POST /v1/jobs/{job_id}/retry."""

import asyncio
import base64

import pytest

from app.config import ApiConfig
from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import StoredObject
from storage.clock import ManualClock
from storage.errors import ObjectNotFound
from storage.jobs.record import MOST_RETRIES_SHOWN
from tests.support.api_server import KEY, PNG, Api, running_api, submit, work

pytestmark = pytest.mark.anyio

LOAD = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "cat"}},
}


async def ended(api: Api, **fields: object) -> str:
    job_id: str = (await submit(api, **fields))["job_id"]
    await work(api)
    return job_id


@pytest.mark.real_bucket("copies of files")
async def test_a_retry_repeats_the_job(api: Api) -> None:
    """A retry has the graph, inputs, files and options of the finished job, and the two name each other."""
    medium = {"name": "cat.png", "data": base64.b64encode(PNG).decode()}
    value = {"node": "2", "field": "filename_prefix", "value": "dog"}
    old = await ended(
        api, workflow=LOAD, media=[medium], inputs=[value], priority=3, metadata={"order": "1"}, deadline_s=900
    )
    answer = await api.client.post(f"/v1/jobs/{old}/retry")
    assert answer.status_code == 202
    new = answer.json()["job_id"]
    assert answer.headers["location"].endswith(new)
    first, second = [(await api.client.get(f"/v1/jobs/{job_id}")).json() for job_id in (old, new)]
    before, after = [await api.stores.jobs.read("default", job_id) for job_id in (old, new)]
    assert (first["retried_as"], second["retry_of"]) == ([new], old)
    for name in ("priority", "metadata", "deadline_s", "timeout_s", "queue_timeout_s", "graphs"):
        assert first[name] == second[name]
    assert before.record.inputs == after.record.inputs
    assert await api.stores.jobs.workflow("default", old) == await api.stores.jobs.workflow("default", new)
    (file,) = after.record.input_files
    assert file.name == "cat.png"
    # The retry has its own copy: the finished job is removed before it, with its files.
    await api.client.delete(f"/v1/jobs/{old}?purge=true")
    assert (await api.objects.get(file.key)).body == PNG


async def test_a_retry_uses_the_upload_of_the_first_job(memory_api: Api) -> None:
    """An upload is used in place and held for the retry; once it is removed, a retry is refused."""
    answer = await memory_api.client.post("/v1/uploads", json={"size_bytes": len(PNG), "content_type": "image/png"})
    upload_id = answer.json()["upload_id"]
    await memory_api.objects.put(keys.upload_data("default", upload_id), PNG)
    old = await ended(memory_api, workflow=LOAD, media=[{"name": "cat.png", "upload_id": upload_id}])
    new = (await memory_api.client.post(f"/v1/jobs/{old}/retry")).json()["job_id"]
    assert keys.upload_use("default", upload_id, new) in await memory_api.keys()
    await memory_api.objects.delete(keys.upload("default", upload_id), keys.upload_data("default", upload_id))
    refused = await memory_api.client.post(f"/v1/jobs/{old}/retry")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/inputs-gone")
    assert "cat.png" in refused.json()["detail"]


async def test_a_job_of_many_image_inputs_is_retried(clock: ManualClock) -> None:
    """`max_media` limits the media of a submission, not the files of image inputs, nor those of a retry."""
    images = {str(n): {"class_type": "LoadImage", "inputs": {"image": "cat.png"}} for n in range(10, 13)}
    picture = base64.b64encode(PNG).decode()
    inputs = [{"node": node, "field": "image", "type": "image_base64", "value": picture} for node in images]
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY, max_media=2)) as api:
        old = await ended(api, workflow=LOAD | images, media=[{"name": "cat.png", "data": picture}], inputs=inputs)
        answer = await api.client.post(f"/v1/jobs/{old}/retry")
        assert answer.status_code == 202, answer.text
        record = (await api.stores.jobs.read("default", answer.json()["job_id"])).record
    assert len(record.input_files) == 4


async def test_a_job_that_cannot_be_retried_is_refused(memory_api: Api) -> None:
    """A job that has not ended, is unknown or was removed is not retried."""
    job_id = (await submit(memory_api))["job_id"]
    refused = await memory_api.client.post(f"/v1/jobs/{job_id}/retry")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/job-not-over")
    await memory_api.client.delete(f"/v1/jobs/{job_id}?purge=true")
    assert (await memory_api.client.post(f"/v1/jobs/{job_id}/retry")).status_code == 410
    unknown = await memory_api.client.post("/v1/jobs/0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10/retry")
    assert unknown.status_code == 404
    async with await memory_api.client_of("acme") as other:
        assert (await other.post(f"/v1/jobs/{await ended(memory_api)}/retry")).status_code == 404


async def test_one_key_makes_one_retry(memory_api: Api) -> None:
    """A repeated request with the same Idempotency-Key answers with the same retry; for another job it is refused."""
    one, other = await ended(memory_api), await ended(memory_api)
    key = {"idempotency-key": "again"}
    first = await memory_api.client.post(f"/v1/jobs/{one}/retry", headers=key)
    second = await memory_api.client.post(f"/v1/jobs/{one}/retry", headers=key)
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["job_id"] == second.json()["job_id"]
    assert (await memory_api.client.get(f"/v1/jobs/{one}")).json()["retried_as"] == [first.json()["job_id"]]
    reused = await memory_api.client.post(f"/v1/jobs/{other}/retry", headers=key)
    assert reused.json()["type"] == "/problems/idempotency-key-reused"


async def test_a_retry_whose_copies_fail_leaves_nothing(clock: ManualClock) -> None:
    """After a failed copy only the timer stays; with an Idempotency-Key, a repeat of the request may need the parts."""

    class Failing(MemoryObjectStore):
        failing = "/none"

        async def copy(self, source: str, target: str, *, content_type: str) -> None:
            if target.endswith(self.failing):
                raise ObjectNotFound(source)
            await super().copy(source, target, content_type=content_type)

    objects = Failing(clock)
    async with running_api(objects, clock) as api:
        media = [{"name": f"{name}.png", "data": base64.b64encode(PNG).decode()} for name in ("cat", "dog")]
        old = await ended(api, workflow=LOAD, media=media)
        await api.stores.jobs.settled()
        files = sorted(key for key in await api.keys() if key.startswith(keys.job_prefix("default", old) + "input"))
        objects.failing = files[-1].removeprefix(keys.job_prefix("default", old))
        for headers, kept in (({}, []), ({"idempotency-key": "once"}, [files[0], "workflow.json"])):
            before = set(await api.keys())
            refused = await api.client.post(f"/v1/jobs/{old}/retry", headers=headers)
            assert refused.json()["type"] == "/problems/unknown-asset"
            await api.stores.jobs.settled()
            left = sorted(set(await api.keys()) - before)
            jobs = [key.split("/", 4)[-1] for key in left if "/jobs/" in key]
            assert jobs == [key.rpartition(old + "/")[-1] for key in kept]
            assert len([key for key in left if key.startswith("timers/active/")]) == 1
            assert not [key for key in left if key.startswith("queue/")]


async def test_a_retry_is_accepted_although_the_old_job_is_removed(clock: ManualClock) -> None:
    """A retry whose old job is removed after the commit of the new one is answered with the new job."""

    class Removing(MemoryObjectStore):
        old = ""

        async def create(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
            etag = await super().create(key, body, content_type=content_type)
            if key.endswith("/job.json") and self.old:
                removed = await api.client.delete(f"/v1/jobs/{self.old}?purge=true")
                assert removed.status_code < 300
            return etag

    objects = Removing(clock)
    async with running_api(objects, clock) as api:
        old = await ended(api)
        objects.old = old
        answer = await api.client.post(f"/v1/jobs/{old}/retry")
        assert answer.status_code == 202
        assert (await api.client.get(f"/v1/jobs/{old}")).status_code == 410


async def test_a_job_names_its_newest_retries_alone(memory_api: Api) -> None:
    """However often a job is retried, its record names the newest retries alone."""
    old = await ended(memory_api)
    made = [(await memory_api.client.post(f"/v1/jobs/{old}/retry")).json()["job_id"] for _ in range(22)]
    shown = (await memory_api.client.get(f"/v1/jobs/{old}")).json()["retried_as"]
    assert shown == made[-MOST_RETRIES_SHOWN:]


async def test_a_retry_counts_as_a_job(clock: ManualClock) -> None:
    """A retry beyond a quota is refused as any other submission."""
    config = ApiConfig(api_key=KEY, max_queued_jobs=1)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        old = await ended(api)
        await submit(api)
        refused = await api.client.post(f"/v1/jobs/{old}/retry")
    assert (refused.status_code, refused.json()["type"]) == (429, "/problems/too-many-queued-jobs")


async def test_few_retries_read_their_graphs_at_the_same_time(clock: ManualClock) -> None:
    """Retries wait for the places of larger requests before they read a graph, which may have megabytes."""

    class Slow(MemoryObjectStore):
        reading = most = 0

        async def get(self, key: str) -> StoredObject:
            if not key.endswith("/workflow.json"):
                return await super().get(key)
            self.reading += 1
            self.most = max(self.most, self.reading)
            await asyncio.sleep(0.02)
            self.reading -= 1
            return await super().get(key)

    bucket = Slow(clock)
    async with running_api(bucket, clock, ApiConfig(api_key=KEY, max_receiving_requests=4)) as api:
        job_id = await ended(api)
        bucket.most = 0
        answers = await asyncio.gather(*(api.client.post(f"/v1/jobs/{job_id}/retry") for _ in range(12)))
        assert {answer.status_code for answer in answers} == {202}
    assert 1 <= bucket.most <= 4


async def test_the_copies_of_a_retry_are_charged(clock: ManualClock) -> None:
    """The files that a retry copies count to the tenant's bytes of the day, as those of any submission."""
    config = ApiConfig(api_key=KEY, max_upload_bytes_a_day=len(PNG) * 3 // 2)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        medium = {"name": "cat.png", "data": base64.b64encode(PNG).decode()}
        job_id = await ended(api, workflow=LOAD, media=[medium])
        assert (await api.client.post(f"/v1/jobs/{job_id}/retry")).status_code == 429


async def test_a_graph_that_is_no_longer_accepted_is_a_problem(memory_api: Api) -> None:
    """A stored graph that the parser refuses today, as after a change of its limits, is refused with the reason."""
    old = await ended(memory_api)
    await memory_api.stores.objects.put(keys.workflow("default", old), b"{}", content_type="application/json")
    refused = await memory_api.client.post(f"/v1/jobs/{old}/retry")
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/not-a-workflow")

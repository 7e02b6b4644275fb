"""Responses when the API itself fails: a problem without internals, and an id that leads to the details in the log."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from app.config import ApiConfig
from storage import keys
from storage.bucket.budget import note_write
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import KeyPage, StoredObject
from storage.clock import ManualClock
from storage.errors import StorageRefused, StorageUnavailable
from tests.support.api_server import BLUE, KEY, Api, running_api
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


class BrokenStore(MemoryObjectStore):
    """A bucket that raises `fault` if it is set, at a GET only where `in_keys` is in its key.

    With `refuses_records` it refuses new records, which are written conditionally. With `loses_answers` it changes
    records and fails nevertheless.
    """

    fault: Exception | None = None
    in_keys: str = ""
    refuses_records = False
    loses_answers = False
    reads = 0

    async def get(self, key: str) -> StoredObject:
        self.reads += 1
        if self.fault is not None and self.in_keys in key:
            raise self.fault
        return await super().get(key)

    async def create(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        note_write()  # as the real store does
        if self.refuses_records:
            raise StorageRefused("the bucket refuses this client: QuotaExceeded")
        return await super().create(key, body, content_type=content_type)

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        note_write()
        new = await super().replace(key, body, etag=etag, content_type=content_type)
        if self.loses_answers:
            raise StorageUnavailable("no answer")
        return new

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        if self.fault is not None:
            raise self.fault
        return await super().list(prefix, after=after, limit=limit)


@pytest.fixture
def bucket(clock: ManualClock) -> BrokenStore:
    return BrokenStore(clock)


@pytest.fixture
async def api(bucket: BrokenStore, clock: ManualClock) -> AsyncIterator[Api]:
    async with running_api(bucket, clock, ApiConfig(api_key=KEY, metrics=True, docs=False)) as api:
        yield api


async def submitted(api: Api) -> str:
    job_id: str = (await api.client.post("/v1/jobs", json={"workflow": BLUE})).json()["job_id"]
    return job_id


async def test_a_defect_is_reported_as_a_problem(
    api: Api, bucket: BrokenStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect gives a 500 problem whose request id is in the log with the exception, and the API keeps running."""
    job_id = await submitted(api)
    bucket.fault = LookupError("a secret detail")
    answer = await api.client.get(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "secret detail" not in answer.text
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[1] is bucket.fault
    assert record.__dict__["request_id"] == answer.headers["x-request-id"]
    assert record.__dict__["request_id"] in answer.json()["detail"]
    bucket.fault = None
    assert (await api.client.get(f"/v1/jobs/{job_id}")).status_code == 200
    counted = (await api.client.get("/metrics")).text
    assert 'comfyui_modal_requests_total{method="GET",operation="get_job",status="5xx"} 1.0' in counted


async def test_a_damaged_record_is_reported_as_a_problem(api: Api) -> None:
    """A damaged record gives an internal error and not an unknown job."""
    job_id = await submitted(api)
    await api.objects.put(keys.record("default", job_id), b'{"from": "the future"}')
    answer = await api.client.get(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")


async def test_an_unreachable_bucket_is_reported(api: Api, bucket: BrokenStore) -> None:
    """While the bucket is unreachable, clients get 503 with Retry-After and GET /ready fails."""
    bucket.fault = StorageUnavailable("away")
    answer = await api.client.get("/v1/jobs")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/storage-unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert (await api.client.get("/health")).status_code == 200
    assert (await api.client.get("/ready")).status_code == 503


@pytest.mark.parametrize("path", ["/v1/jobs", "/ready"])
async def test_a_refusal_by_the_bucket_is_logged(
    api: Api, bucket: BrokenStore, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """While the bucket refuses requests, clients may repeat theirs, and the log tells the operator why they fail."""
    bucket.fault = StorageRefused("the bucket refuses this client: AccessDenied")
    answer = await api.client.get(path)
    assert answer.status_code == 503
    assert path == "/ready" or int(answer.headers["retry-after"]) > 0
    assert "AccessDenied" not in answer.text
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["an operator must act: the bucket refuses this client: AccessDenied"]


async def test_a_key_that_the_bucket_does_not_give_is_logged(
    api: Api, bucket: BrokenStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A lookup of an API key that the bucket refuses gets 503, and the log tells the operator why."""
    async with await api.client_of("one") as client:
        bucket.fault = StorageRefused("the bucket refuses this client: AccessDenied")
        answer = await client.get("/v1/jobs")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/storage-unavailable")
    assert "AccessDenied" in caplog.text


async def test_a_refused_write_leaves_the_outcome_open(api: Api, bucket: BrokenStore) -> None:
    """A submission of which a write is refused is not said to have had no effect: an earlier write may have."""
    bucket.refuses_records = True
    answer = await api.client.post("/v1/jobs", json={"workflow": BLUE})
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/outcome-unknown")
    assert int(answer.headers["retry-after"]) > 0


async def test_an_accepted_job_is_reported_without_an_estimate(api: Api, bucket: BrokenStore) -> None:
    """A committed job is accepted although the bucket refuses the read of the time estimate."""
    bucket.fault, bucket.in_keys = StorageRefused("the bucket refuses this client: AccessDenied"), "/runtimes/"
    assert (await api.client.post("/v1/jobs", json={"workflow": BLUE})).status_code == 202


async def test_a_long_poll_survives_an_unreachable_bucket(api: Api, bucket: BrokenStore) -> None:
    """A long poll continues while the bucket is unreachable and returns the finished job."""
    job_id = await submitted(api)
    claimed = await api.queue.claim("default", "w")
    assert claimed is not None
    bucket.reads = 0
    polling = asyncio.create_task(api.client.get(f"/v1/jobs/{job_id}?wait=25"))
    await until(lambda: bucket.reads == 2)  # its own read, and the first of the shared ones
    bucket.fault = StorageUnavailable("away")
    await until(lambda: bucket.reads == 3)
    bucket.fault = None
    now = api.stores.clock.now()
    await api.stores.jobs.evolve_from(claimed, lambda job: job.complete(attempt=1, now=now, outputs=()))
    assert (await polling).json()["status"] == "completed"


async def test_the_docs_page_can_be_switched_off(api: Api) -> None:
    """A deployment without the docs page serves neither the page nor its files."""
    for path in ("/docs", "/docs/docs.js"):
        assert (await api.client.get(path)).status_code == 404


async def test_a_shared_cancellation_leaves_the_outcome_open(api: Api, bucket: BrokenStore) -> None:
    """Requests that cancel a batch together learn that it may be cancelled when the answer to the write is lost."""
    sets = [[{"node": "1", "field": "color", "value": 1}]]
    batch = (await api.client.post("/v1/batches", json={"workflow": BLUE, "input_sets": sets})).json()
    bucket.loses_answers = True
    answers = await asyncio.gather(*(api.client.delete(f"/v1/batches/{batch['batch_id']}") for _ in range(2)))
    for answer in answers:
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/outcome-unknown")
        assert int(answer.headers["retry-after"]) > 0

"""What clients get when the API itself fails: a problem that tells nothing, and an id by which the log tells all."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from app.config import ApiConfig
from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import KeyPage, StoredObject
from storage.clock import ManualClock
from storage.errors import StorageUnavailable
from tests.support.api_server import BLUE, KEY, Api, running_api
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


class BrokenStore(MemoryObjectStore):
    """A bucket that answers with `fault`, if there is one."""

    fault: Exception | None = None
    looks = 0

    async def get(self, key: str) -> StoredObject:
        self.looks += 1
        if self.fault is not None:
            raise self.fault
        return await super().get(key)

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


async def test_a_defect_is_a_problem(api: Api, bucket: BrokenStore, caplog: pytest.LogCaptureFixture) -> None:
    """The log has its words, under the id that the client is told; the next request is answered."""
    job_id = await submitted(api)
    bucket.fault = LookupError("what nobody may read")
    answer = await api.client.get(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "nobody" not in answer.text
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[1] is bucket.fault
    assert record.__dict__["request_id"] == answer.headers["x-request-id"]
    assert record.__dict__["request_id"] in answer.json()["detail"]
    bucket.fault = None
    assert (await api.client.get(f"/v1/jobs/{job_id}")).status_code == 200
    counted = (await api.client.get("/metrics")).text
    assert 'comfyui_modal_requests_total{method="GET",operation="get_job",status="5xx"} 1.0' in counted


async def test_a_damaged_record_is_a_problem(api: Api) -> None:
    """It is not an unknown job."""
    job_id = await submitted(api)
    await api.objects.put(keys.record("default", job_id), b'{"from": "the future"}')
    answer = await api.client.get(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")


async def test_a_bucket_that_is_away_is_told(api: Api, bucket: BrokenStore) -> None:
    """The client is told to come again, and the balancer to ask others."""
    bucket.fault = StorageUnavailable("away")
    answer = await api.client.get("/v1/jobs")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/storage-unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert (await api.client.get("/health")).status_code == 200
    assert (await api.client.get("/ready")).status_code == 503


async def test_a_long_poll_outlasts_a_bucket_that_is_away(api: Api, bucket: BrokenStore) -> None:
    """It looks again, and tells the end of the job."""
    job_id = await submitted(api)
    claimed = await api.queue.claim("default", "w")
    assert claimed is not None
    bucket.looks = 0
    asking = asyncio.create_task(api.client.get(f"/v1/jobs/{job_id}?wait=25"))
    await until(lambda: bucket.looks == 2)  # its own look, and the first of those that are shared
    bucket.fault = StorageUnavailable("away")
    await until(lambda: bucket.looks == 3)
    bucket.fault = None
    now = api.stores.clock.now()
    await api.stores.jobs.evolve_from(claimed, lambda job: job.complete(attempt=1, now=now, outputs=()))
    assert (await asking).json()["status"] == "completed"


async def test_the_docs_page_can_be_left_out(api: Api) -> None:
    """A deployment that shows none has none, and none of the page's files."""
    for path in ("/docs", "/docs/docs.js"):
        assert (await api.client.get(path)).status_code == 404

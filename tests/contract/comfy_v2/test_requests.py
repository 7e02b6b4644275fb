"""Bucket requests of Comfy API v2, as counts: a job costs what it costs by /v1."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from storage.bucket.objects import StoredObject
from storage.clock import ManualClock
from tests.support.api_server import BLUE, Api, running_api
from tests.support.waiting import until
from tests.support.watched_bucket import WatchedBucket

pytestmark = pytest.mark.anyio


@pytest.fixture
def bucket(clock: ManualClock) -> WatchedBucket:
    return WatchedBucket(clock)


@pytest.fixture
async def watched_api(bucket: WatchedBucket, clock: ManualClock) -> AsyncIterator[Api]:
    async with running_api(bucket, clock) as api:
        yield api


async def requests_of(api: Api, bucket: WatchedBucket, method: str, path: str, key: str = "") -> list[str]:
    """Return the verbs of the requests to the bucket that a successful request made."""
    await api.stores.jobs.settled()
    bucket.watch()
    body, headers = ({"workflow": BLUE} if method == "POST" else None), ({"idempotency-key": key} if key else {})
    answer = await api.client.request(method, path, json=body, headers=headers)
    assert answer.is_success, answer.text
    await api.stores.jobs.settled()
    return sorted(bucket.requests.elements())


@pytest.mark.parametrize("key", ["", "k"])
async def test_a_submission_costs_the_same(watched_api: Api, bucket: WatchedBucket, key: str) -> None:
    """A job is submitted with the same requests by both surfaces, with and without an Idempotency-Key."""
    await requests_of(watched_api, bucket, "POST", "/v1/jobs")  # what is read once is in memory from here on
    ours = await requests_of(watched_api, bucket, "POST", "/v1/jobs", key)
    assert await requests_of(watched_api, bucket, "POST", "/api/v2/jobs", key) == ours


async def test_polls_cost_a_read_each(watched_api: Api, bucket: WatchedBucket) -> None:
    """A poll reads the record; while jobs wait, the queue is listed too, once in two seconds for all of them."""
    urls = []
    for _ in range(2):
        answer = await watched_api.client.post("/api/v2/jobs", json={"workflow": BLUE})
        urls.append(answer.json()["urls"]["self"])
    first, *polls = [await requests_of(watched_api, bucket, "GET", url) for url in (*urls, *urls)]
    assert first == ["GET", "LIST"]
    # Not counted: a machine that is slow enough lists the queue again.
    assert all(poll in (["GET"], ["GET", "LIST"]) for poll in polls)
    assert await watched_api.queue.claim("default", "w") is not None
    assert await requests_of(watched_api, bucket, "GET", urls[0]) == ["GET"]


class HeldBucket(WatchedBucket):
    """A bucket whose workflows are read once `is_free` is set."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.is_free = asyncio.Event()

    async def get(self, key: str) -> StoredObject:
        if key.endswith("/workflow.json"):
            await self.is_free.wait()
        return await super().get(key)


async def test_concurrent_reads_of_a_workflow_are_shared(clock: ManualClock) -> None:
    """Requests for one workflow at the same time share one reading, as a workflow with its inputs has megabytes."""
    bucket = HeldBucket(clock)
    async with running_api(bucket, clock) as api:
        job = (await api.client.post("/api/v2/jobs", json={"workflow": BLUE})).json()
        await api.stores.jobs.settled()
        bucket.watch()
        url, in_flight = f"/api/v2/jobs/{job['id']}/workflow", api.app.state.context.in_flight
        asking = [asyncio.create_task(api.client.get(url)) for _ in range(20)]
        await until(lambda: in_flight._of_tenant["default"] == len(asking))
        bucket.is_free.set()
        assert [answer.json()["workflow"] for answer in await asyncio.gather(*asking)] == [BLUE] * 20
    # Two in a reading. Requests that come during one share the next.
    assert bucket.requests["GET"] <= 4

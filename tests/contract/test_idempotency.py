"""Idempotency-Key: the same request twice acts once, on the in-memory store and the real S3 server."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest

from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import StoredObject
from storage.clock import Clock, ManualClock
from storage.jobs.idempotency import KEY_LIFE
from storage.webhooks.signing import new_secret
from tests.support.api_server import BLUE, PNG, Api, running_api

pytestmark = pytest.mark.anyio


async def submit(api: Api, key: str, **fields: Any) -> httpx.Response:
    headers = {b"idempotency-key": key.encode("latin-1")}
    return await api.client.post("/v1/jobs", json={"workflow": BLUE, **fields}, headers=headers)


async def jobs(api: Api) -> int:
    return len((await api.client.get("/v1/jobs")).json()["jobs"])


async def test_a_repeated_request_returns_the_same_job(api: Api) -> None:
    """A repeated request gets 200 with a header that marks the repetition, and requests no second worker."""
    first, second = await submit(api, "k"), await submit(api, "k")
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["job_id"] == second.json()["job_id"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert await jobs(api) == 1
    assert len(api.services.launcher.spawned) == 1  # type: ignore[attr-defined]  # the in-memory one counts


async def test_another_body_with_the_same_key_is_a_conflict(api: Api) -> None:
    """A different request with the same key is refused and creates no job."""
    await submit(api, "k")
    refused = await submit(api, "k", priority=1)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/idempotency-key-reused")
    assert await jobs(api) == 1


@pytest.mark.real_bucket("conditional writes in a race")
async def test_concurrent_requests_create_one_job(api: Api) -> None:
    """Concurrent requests with the same key create one job and get the same response."""
    answers = await asyncio.gather(*(submit(api, "k") for _ in range(4)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert await jobs(api) == 1


class CrowdedStore(MemoryObjectStore):
    """A bucket in which no request claims its key before `crowd` requests have checked it."""

    def __init__(self, clock: Clock, crowd: int) -> None:
        super().__init__(clock)
        self._crowd, self._gathered = crowd, asyncio.Barrier(crowd)

    async def get(self, key: str) -> StoredObject:
        try:
            return await super().get(key)
        finally:
            if "/idempotency/" in key and self._crowd:
                self._crowd -= 1
                await self._gathered.wait()


@pytest.mark.parametrize("priorities", [(0, 0, 0, 0), (0, 1, 2, 3)], ids=["one request", "different requests"])
async def test_requests_that_lose_the_race_leave_nothing(clock: ManualClock, priorities: tuple[int, ...]) -> None:
    """The slower requests delete their drafts and timers, which the reaper would otherwise read for a day."""
    async with running_api(CrowdedStore(clock, len(priorities)), clock) as api:
        await asyncio.gather(*(submit(api, "k", priority=priority, queue_timeout_s=1) for priority in priorities))
        await api.stores.jobs.settled()
        (job,) = (await api.client.get("/v1/jobs")).json()["jobs"]
        left = [
            key for key in await api.keys() if key.startswith(("timers/active/", "queue/", "tenants/default/jobs/"))
        ]
        assert len(left) == 4
        assert all(job["job_id"] in key for key in left)
        # All requests share the timer of the Idempotency-Key.
        assert len([key for key in await api.keys() if key.startswith("timers/retained/")]) == 1


async def test_a_refused_request_leaves_no_timer(api: Api) -> None:
    """A refused request leaves no timer, because its Idempotency-Key was never claimed."""
    assert (await submit(api, "k", priority="high")).status_code == 422
    assert (await api.objects.list("timers/")).keys == ()


async def test_a_crash_between_claim_and_job_is_repaired(api: Api) -> None:
    """If a key was claimed but its job never created, the next request creates the job with the same id."""
    first = await submit(api, "k")
    job_id = first.json()["job_id"]
    await api.objects.delete(f"tenants/default/jobs/{job_id}/job.json")
    again = await submit(api, "k")
    assert (again.status_code, again.json()["job_id"]) == (202, job_id)
    assert (await api.client.get(f"/v1/jobs/{job_id}")).status_code == 200


async def test_a_repeat_after_removal_stores_nothing(api: Api) -> None:
    """A repeat after the job's removal gets 410 and stores nothing."""
    document = {"workflow": BLUE, "webhook_url": "https://h.example/", "webhook_secret": new_secret()}
    headers = {"idempotency-key": "once"}
    job_id = (await api.client.post("/v1/jobs", json=document, headers=headers)).json()["job_id"]
    await api.client.delete(f"/v1/jobs/{job_id}")
    await api.stores.remover.purge(await api.stores.jobs.read("default", job_id))
    before = await api.keys()
    assert (await api.client.post("/v1/jobs", json=document, headers=headers)).status_code == 410
    assert [key for key in await api.keys() if job_id in key] == [key for key in before if job_id in key]


async def test_a_refused_request_does_not_use_its_key(api: Api) -> None:
    """The key of a refused request can be used for another request."""
    bad = await api.client.post("/v1/jobs", json={"workflow": {}}, headers={"idempotency-key": "k"})
    assert bad.status_code == 422
    assert (await submit(api, "k")).status_code == 202


async def test_a_key_can_be_used_again_after_a_day(api: Api, clock: ManualClock) -> None:
    """A key that has expired after a day creates another job."""
    first = await submit(api, "k")
    clock.set(clock.now() + KEY_LIFE - timedelta(seconds=1))
    assert (await submit(api, "k")).status_code == 200
    clock.set(clock.now() + timedelta(seconds=1))
    later = await submit(api, "k", priority=1)
    assert later.status_code == 202
    assert later.json()["job_id"] != first.json()["job_id"]


async def test_uploads_have_their_own_keys(api: Api) -> None:
    """A key repeats an upload independently of a job with the same key, and another upload is a conflict."""
    await submit(api, "k")
    upload_request = {"size_bytes": 3, "content_type": "image/png"}
    answers = [
        await api.client.post("/v1/uploads", json=upload_request, headers={"idempotency-key": "k"}) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json()["upload_id"] == answers[1].json()["upload_id"]
    other = await api.client.post(
        "/v1/uploads", json=upload_request | {"size_bytes": 4}, headers={"idempotency-key": "k"}
    )
    assert other.status_code == 409


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\xe9"])
async def test_an_invalid_key_is_refused(api: Api, key: str) -> None:
    """A key that is empty, too long or not printable ASCII is refused."""
    response = await submit(api, key)
    assert response.json()["type"] == "/problems/bad-idempotency-key"


async def test_a_repeated_job_needs_no_uploads(api: Api) -> None:
    """A repeat returns the job although the upload that the first request named no longer exists."""
    upload = (await api.client.post("/v1/uploads", json={"size_bytes": len(PNG), "content_type": "image/png"})).json()
    key = keys.upload_data("default", upload["upload_id"])
    await api.objects.put(key, PNG, content_type="image/png")
    media = [{"name": "a.png", "upload_id": upload["upload_id"]}]
    first = await submit(api, "k", media=media)
    assert first.status_code == 202, first.text
    await api.objects.delete(key)
    second = await submit(api, "k", media=media)
    assert (second.status_code, second.json()["job_id"]) == (200, first.json()["job_id"])
    assert (await submit(api, "other", media=media)).status_code in (409, 422)


async def test_a_repeated_batch_needs_no_uploads(api: Api) -> None:
    """A repeat returns the batch although the upload that the first request named no longer exists."""
    upload = (await api.client.post("/v1/uploads", json={"size_bytes": len(PNG), "content_type": "image/png"})).json()
    key = keys.upload_data("default", upload["upload_id"])
    await api.objects.put(key, PNG, content_type="image/png")
    batch = {"jobs": [{"workflow": BLUE, "media": [{"name": "a.png", "upload_id": upload["upload_id"]}]}]}
    headers = {"idempotency-key": "k"}
    first = await api.client.post("/v1/batches", json=batch, headers=headers)
    assert first.status_code == 202, first.text
    await api.objects.delete(key)
    second = await api.client.post("/v1/batches", json=batch, headers=headers)
    assert (second.status_code, second.json()["batch_id"]) == (200, first.json()["batch_id"])

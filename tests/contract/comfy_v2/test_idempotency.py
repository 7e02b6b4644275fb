"""Idempotency-Key in Comfy API v2: a key that made a job is rejected, and one that made none may be used again."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.jobs.idempotency import KEY_LIFE
from tests.contract.comfy_v2.shapes import refused, shaped
from tests.support.api_server import BLUE, KEY, Api, running_api

pytestmark = pytest.mark.anyio

JOBS = "/api/v2/jobs"


async def submit(api: Api, key: str = "k", **fields: Any) -> httpx.Response:
    return await api.client.post(JOBS, json={"workflow": BLUE, **fields}, headers={"idempotency-key": key})


async def count(api: Api) -> int:
    return len((await api.client.get(JOBS)).json()["jobs"])


async def test_a_used_key_is_rejected(api: Api) -> None:
    """The same request and another one with a used key are rejected, and nothing is replayed."""
    shaped(await submit(api, metadata=None), 201, "job")
    for labels in (None, {"a": "b"}):
        answer = await submit(api, "k", metadata=labels)
        refused(answer, 422, "idempotency_key_reuse")
        assert "idempotency-replayed" not in answer.headers
    assert await count(api) == 1


@pytest.mark.parametrize("bodies", [({}, {}, {}, {}), ({"a": "1"}, {"a": "2"}, {"a": "3"}, {"a": "4"})])
@pytest.mark.real_bucket("conditional writes in a race")
async def test_concurrent_requests_create_one_job(api: Api, bodies: tuple[dict[str, str], ...]) -> None:
    """Of concurrent requests with one key exactly one is answered 201, and its job is the one that there is."""
    answers = await asyncio.gather(*(submit(api, metadata=labels) for labels in bodies))
    (made,) = [answer.json() for answer in answers if answer.status_code == 201]
    for answer in answers:
        if answer.status_code != 201:
            refused(answer, 422, "idempotency_key_reuse")
    assert [row["id"] for row in (await api.client.get(JOBS)).json()["jobs"]] == [made["id"]]
    assert (await api.client.get(f"{JOBS}/{made['id']}")).json()["metadata"] == made["metadata"]


async def test_a_claim_without_a_job_is_used(api: Api) -> None:
    """If a process died between the claim of a key and its job, the repeated request creates the job."""
    job_id = (await submit(api)).json()["id"]
    await api.objects.delete(f"tenants/default/jobs/{job_id}/job.json")
    assert shaped(await submit(api), 201, "job")["id"] == job_id
    refused(await submit(api), 422, "idempotency_key_reuse")


async def test_a_refused_request_leaves_its_key_free(memory_api: Api) -> None:
    """A request that is refused for its body does not use its key."""
    refused(await submit(memory_api, metadata={"ä": "x"}), 422, "metadata_invalid")
    refused(await submit(memory_api, workflow={}), 422, "invalid_workflow")
    shaped(await submit(memory_api), 201, "job")


@pytest.mark.parametrize("limit", ["max_active_jobs", "max_queued_jobs"])
async def test_a_full_queue_leaves_the_key_free(clock: ManualClock, limit: str) -> None:
    """A request beyond the job quota gets a Retry-After, and succeeds later with the same key."""
    config = ApiConfig(api_key=KEY).model_copy(update={limit: 1})
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        first = shaped(await submit(api, "one"), 201, "job")
        for _ in range(2):
            answer = await submit(api, "two")
            refused(answer, 429, "queue_full")
            assert int(answer.headers["retry-after"]) == 5
        shaped(await api.client.post(first["urls"]["cancel"]), 200, "job")
        clock.set(clock.now() + timedelta(seconds=5))
        shaped(await submit(api, "two"), 201, "job")


async def test_the_surfaces_have_their_own_keys(api: Api) -> None:
    """A key that made a job by /v1 may make another one here, where keys are not replayed."""
    answer = await api.client.post("/v1/jobs", json={"workflow": BLUE}, headers={"idempotency-key": "k"})
    assert answer.status_code == 202
    shaped(await submit(api), 201, "job")


async def test_a_key_is_rejected_after_its_job_was_removed(memory_api: Api) -> None:
    """A key stays used for a day although its job was removed, and may then be used again."""
    api = memory_api
    job_id = (await submit(api)).json()["id"]
    assert (await api.client.delete(f"/v1/jobs/{job_id}?purge=true")).status_code == 204
    refused(await submit(api), 422, "idempotency_key_reuse")
    api.stores.clock.set(api.stores.clock.now() + KEY_LIFE)  # type: ignore[attr-defined]  # the tests' clock
    shaped(await submit(api), 201, "job")


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_an_invalid_key_is_refused(memory_api: Api, key: str) -> None:
    """A key that is empty or too long is refused."""
    refused(await submit(memory_api, key), 422, "invalid_request")

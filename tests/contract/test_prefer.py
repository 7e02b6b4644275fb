"""`Prefer: wait` of submissions."""

import asyncio
import gc
import json
from typing import Any

import pytest

from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import BLUE, KEY, Api, running_api, work
from tests.support.records import OUTPUT

pytestmark = pytest.mark.anyio

MARK = "a mark"


def submitted(api: Api, prefer: str, path: str = "/v1/jobs", **headers: str) -> "asyncio.Task[Any]":
    body: dict[str, Any] = {"workflow": BLUE} if path == "/v1/jobs" else {}
    return asyncio.create_task(api.client.post(path, json=body, headers={"prefer": prefer, **headers}))


async def queued(api: Api) -> None:
    """Wait until a submission has reached the queue."""
    for _ in range(1000):
        if (await api.client.get("/v1/jobs?status=queued")).json()["jobs"]:
            return
        await asyncio.sleep(0.01)
    pytest.fail("no job was queued")


async def test_a_submission_waits_for_the_end_of_its_job(memory_api: Api) -> None:
    """With Prefer: wait the answer is the finished job, with 200 and the preference that was applied."""
    waiting = submitted(memory_api, 'respond-async, wait="20"; foo=bar, wait=1')
    await queued(memory_api)
    await work(memory_api, OUTPUT)
    answer = await waiting
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=20")
    job = answer.json()
    assert (job["status"], len(job["outputs"])) == ("completed", 1)
    assert answer.headers["location"].endswith(f"/v1/jobs/{job['job_id']}")
    assert "idempotency-replayed" not in answer.headers


async def test_a_job_that_does_not_end_in_time_is_answered_as_without(memory_api: Api) -> None:
    """After the wait the answer is 202, as without the preference."""
    answer = await submitted(memory_api, "wait=1")
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=1")
    assert answer.json()["status"] == "queued"


@pytest.mark.parametrize(
    "prefer", ["", "wait", "wait=", "wait=0", "wait=-1", "wait=soon", "respond-async", "waiting=9"]
)
async def test_a_preference_that_cannot_be_applied_is_ignored(memory_api: Api, prefer: str) -> None:
    """A malformed or foreign preference changes nothing, and no preference is said to be applied."""
    answer = await submitted(memory_api, prefer)
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


async def test_the_wait_is_bounded_by_the_setting(clock: ManualClock) -> None:
    """A preference beyond max_wait_s is applied as far as it goes."""
    config = ApiConfig(api_key=KEY, max_wait_s=1)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        answer = await submitted(api, "wait=999999")
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=1")


async def test_an_accepted_job_is_not_refused_for_lack_of_waits(clock: ManualClock) -> None:
    """Where no more requests may wait, the job is accepted all the same and answered at once."""
    config = ApiConfig(api_key=KEY, max_long_polls=1)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        first = submitted(api, "wait=20")
        await queued(api)
        second = await submitted(api, "wait=20")
        assert second.status_code == 202
        assert "preference-applied" not in second.headers
        await work(api)
        await work(api)
        assert (await first).status_code == 200


async def test_a_repeated_submission_waits_too(memory_api: Api) -> None:
    """A repeat with the same Idempotency-Key waits for the job of the first request, and is marked as a replay."""
    first = submitted(memory_api, "wait=20", **{"idempotency-key": "k"})
    await queued(memory_api)
    second = submitted(memory_api, "wait=20", **{"idempotency-key": "k"})
    await asyncio.sleep(0.1)
    await work(memory_api)
    answers = await asyncio.gather(first, second)
    assert {answer.json()["status"] for answer in answers} == {"completed"}
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true"]


async def test_a_named_workflow_waits_too(memory_api: Api) -> None:
    """The same preference serves the submission of a workflow by name."""
    answer = await submitted(memory_api, "wait=1", "/v1/workflows/words/jobs")
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=1")


async def test_a_waiting_submission_holds_no_body_in_memory(memory_api: Api) -> None:
    """While a submission waits for its job, the document that was parsed of its body is not in memory."""
    # As text, because the document that a client encodes would be found as well.
    body = '{"workflow": %s, "metadata": {"%s": "x"}}' % (json.dumps(BLUE), MARK)  # noqa: UP031  it has braces
    headers = {"prefer": "wait=20", "content-type": "application/json"}
    waiting = asyncio.create_task(memory_api.client.post("/v1/jobs", content=body, headers=headers))
    await queued(memory_api)
    await asyncio.sleep(0.05)
    gc.collect()
    holders = [one for one in gc.get_objects() if type(one) is dict and "workflow" in one and "metadata" in one]
    found = [one for one in holders if isinstance(one["metadata"], dict) and MARK in one["metadata"]]
    await work(memory_api, OUTPUT)
    assert (await waiting).status_code == 200
    assert found == []

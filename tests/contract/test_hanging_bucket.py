"""A bucket that accepts connections and never answers: every request is answered all the same, and none is doubled."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from app.config import ApiConfig
from app.openapi import OPERATIONS
from app.operations import Operation
from infra.compose.stores import api_s3_config, s3_config
from infra.settings import Settings
from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.clock import ManualClock, SystemClock
from tests.support.api_server import BLUE, KEY, Api, running_api, submit
from tests.support.faulty_proxy import FaultyProxy, faulty_proxy

pytestmark = pytest.mark.anyio

BUDGET_S = 0.5
PATIENCE_S = 15.0
"""Of a client: many budgets, for a loaded machine, and less than one attempt of a worker at the bucket takes."""
AT_ONCE = 10
"""More than the bucket has threads."""
CONFIG = ApiConfig(api_key=KEY, webhook_test_wait_s=0.1, cancel_wait_s=0.1)
AMPLE = pytest.mark.parametrize("place", [5.0], indirect=True)
"""A budget for what must succeed at the first time, also on a loaded machine."""


@dataclass(frozen=True, slots=True)
class Place:
    """An API whose bucket lies behind a proxy that can hang."""

    api: Api
    proxy: FaultyProxy


@pytest.fixture(params=[BUDGET_S])
async def place(s3_config: S3Config, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """Its parameter is the budget."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        config = replace(s3_config, endpoint_url=proxy.url, connect_timeout_s=BUDGET_S / 2, read_timeout_s=30.0)
        objects = S3ObjectStore(config)
        async with running_api(
            objects, SystemClock(), CONFIG.model_copy(update={"bucket_timeout_s": request.param})
        ) as api:
            yield Place(api, proxy)
            proxy.recover()
        await objects.close()


def _request(operation: Operation, job_id: str) -> tuple[str, str, Any]:
    path = operation.path.replace("{type}", "comfyui.job.completed.v1").replace("{number}", "0")
    path = path.replace("{name}", "sdxl").replace("{job_id}", job_id)
    path = path.replace("{batch_id}", job_id).replace("{event_id}", job_id)
    return operation.method, path, operation.example


async def _ask(api: Api, method: str, path: str, document: Any, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    return await api.client.request(method, path, json=document, headers=headers, timeout=PATIENCE_S)


async def _accepted(api: Api, path: str, document: Any, key: str) -> httpx.Response:
    """As a client that keeps to the hint: again with the same key while the answer is 503, as a loaded machine may
    make it."""
    for _ in range(20):
        answer = await _ask(api, "POST", path, document, key=key)
        if answer.status_code != 503:
            break
    assert answer.status_code in (200, 201, 202), answer.text
    return answer


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
async def test_every_operation_answers_while_the_bucket_hangs(place: Place, operation: Operation) -> None:
    """At once or after its first or second call: within its budget, with a Retry-After, more of them than threads."""
    job_id = (await _accepted(place.api, "/v1/jobs", {"workflow": BLUE}, "first")).json()["job_id"]
    method, path, document = _request(operation, job_id)
    for after in (0, 1, 2):
        place.proxy.hang(after)
        answers = await asyncio.gather(*(_ask(place.api, method, path, document) for _ in range(AT_ONCE)))
        for answer in answers:
            assert answer.status_code < 500 or answer.status_code == 503, answer.text
            if answer.status_code == 503 and path != "/ready":
                assert answer.headers["retry-after"] == "5"
                assert answer.json()["type"] in ("/problems/storage-unavailable", "/problems/outcome-unknown")
        place.proxy.recover()


SUBMISSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "job": ("/v1/jobs", {"workflow": BLUE}),
    "batch": ("/v1/batches", {"workflow": BLUE, "input_sets": [[]]}),
    "upload": ("/v1/uploads", {"size_bytes": 8, "content_type": "image/png"}),
}


@pytest.mark.parametrize("what", SUBMISSIONS)
async def test_a_repeated_submission_makes_one_thing_wherever_the_bucket_hung(place: Place, what: str) -> None:
    """The bucket hangs after k calls, for every k; what was on its way is written late; the repeat has the same key."""
    path, document = SUBMISSIONS[what]
    kinds, made = set[str](), list[str]()
    for after in range(30):
        place.proxy.hang(after)
        first = await _ask(place.api, "POST", path, document, key=f"key-{after}")
        place.proxy.recover()
        repeat = await _accepted(place.api, path, document, f"key-{after}")
        again = await _accepted(place.api, path, document, f"key-{after}")
        assert _id(repeat) == _id(again)
        made.append(_id(repeat))
        if first.status_code < 300:
            assert _id(first) == _id(repeat)
            break
        kinds.add(first.json()["type"])
    else:
        raise AssertionError("it never got through")
    unwritten = set() if what == "upload" else {"/problems/storage-unavailable"}  # an upload begins with a write
    assert kinds == unwritten | {"/problems/outcome-unknown"}
    assert len(set(made)) == len(made)
    if what == "job":
        rows = (await place.api.stores.jobs.page("default", status=None, limit=100, cursor=None)).jobs
        assert sorted(row.job_id for row in rows) == sorted(made)


def _id(answer: httpx.Response) -> str:
    body = answer.json()
    return str(body.get("job_id") or body.get("batch_id") or body["upload_id"])


@AMPLE
async def test_an_accepted_job_is_answered_though_its_estimate_is_not_known(place: Place) -> None:
    """The commit counts: a bucket that hangs right after it refuses nothing."""
    await submit(place.api, workflow=BLUE | {"3": BLUE["1"]})
    await place.api.stores.jobs.settled()
    begins = len(place.proxy.seen)
    await submit(place.api, workflow=BLUE | {"3": BLUE["1"], "4": BLUE["1"]})
    calls = place.proxy.seen[begins:]
    commit = next(number for number, (method, path) in enumerate(calls) if method == "PUT" and "/job.json" in path)
    await place.api.stores.jobs.settled()
    place.proxy.hang(commit + 1)
    accepted = await _ask(place.api, "POST", "/v1/jobs", {"workflow": BLUE | {"3": BLUE["1"], "4": BLUE["2"]}})
    assert accepted.status_code == 202


@AMPLE
async def test_ready_says_in_time_that_the_bucket_hangs_and_that_it_is_back(place: Place) -> None:
    """All probes share one look, so that they take no connection from requests."""
    assert (await place.api.client.get("/ready")).status_code == 200
    place.proxy.hang()
    await asyncio.sleep(2.1)  # what was found before counts for two seconds
    before = len(place.proxy.seen)
    answers = await asyncio.gather(*(_ask(place.api, "GET", "/ready", None) for _ in range(AT_ONCE)))
    assert {answer.status_code for answer in answers} == {503}
    assert len(place.proxy.seen) - before == 1
    place.proxy.recover()
    for _ in range(100):
        answer = await place.api.client.get("/ready")
        if answer.status_code == 200:
            break
        await asyncio.sleep(0.1)
    assert answer.status_code == 200


@AMPLE
async def test_a_long_poll_outlasts_a_bucket_that_hangs(place: Place) -> None:
    """Its wait is no wait for the bucket: it ends with the job as it was."""
    job_id = (await submit(place.api))["job_id"]
    asking = asyncio.create_task(place.api.client.get(f"/v1/jobs/{job_id}?wait=3"))
    await asyncio.sleep(0.5)
    place.proxy.hang()
    answer = await asking
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")


async def test_a_key_that_cannot_be_looked_up_is_refused_in_time(place: Place) -> None:
    """The look-up of a key draws on the budget as well, whichever way it goes."""
    key = await place.api.new_key("acme")
    place.proxy.hang()
    headers = {"authorization": f"Bearer {key}"}
    asked = (place.api.client.get("/v1/jobs", headers=headers, timeout=PATIENCE_S) for _ in range(AT_ONCE))
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {503}


def test_the_api_asks_the_bucket_with_less_patience_than_workers(clock: ManualClock) -> None:
    """A thread that hangs is free soon after its request was answered; workers must not lose a job that soon."""
    settings = Settings(bucket="b", bucket_timeout_s=6)
    assert api_s3_config(settings).read_timeout_s == 3
    assert s3_config(settings).read_timeout_s == 30


async def test_a_large_batch_has_time_for_its_jobs(place: Place) -> None:
    """Its requests take longer than the budget of a single job: it is accepted, and cancelled."""
    batch = {"workflow": BLUE, "input_sets": [[]] * 100}
    accepted = await _ask(place.api, "POST", "/v1/batches", batch)
    assert accepted.status_code == 202, accepted.text
    path = f"/v1/batches/{accepted.json()['batch_id']}"
    assert (await place.api.client.delete(path, timeout=PATIENCE_S)).status_code == 202

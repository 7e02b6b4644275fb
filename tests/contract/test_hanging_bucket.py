"""A bucket that accepts connections and never answers: every request gets a response, and none acts twice."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from app.comfy_v2 import jobs
from app.config import ApiConfig
from app.openapi import OPERATIONS
from app.operations import Operation
from infra.compose.stores import api_s3_config, s3_config
from infra.settings import Settings
from storage import keys
from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.clock import ManualClock, SystemClock
from tests.support.api_server import BLUE, KEY, Api, running_api, submit
from tests.support.faulty_proxy import FaultyProxy, faulty_proxy
from tests.support.records import itself

pytestmark = pytest.mark.anyio

BUDGET_S = 0.5
CLIENT_TIMEOUT_S = 15.0
"""Many budgets, for a loaded machine, and less than one attempt of a worker at the bucket."""
AT_ONCE = 10
"""More than the bucket client has threads."""
CONFIG = ApiConfig(api_key=KEY, webhook_test_wait_s=0.1, cancel_wait_s=0.1, max_stream_s=0.5)
AMPLE = pytest.mark.parametrize("deployment", [5.0], indirect=True)
"""A budget for requests that must succeed at the first attempt, even on a loaded machine."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """An API whose bucket is reached through a proxy that can hang."""

    api: Api
    proxy: FaultyProxy


@pytest.fixture(params=[BUDGET_S])
async def deployment(s3_config: S3Config, request: pytest.FixtureRequest) -> AsyncIterator[Deployment]:
    """A deployment whose bucket budget, in seconds, is the fixture's parameter."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        config = replace(s3_config, endpoint_url=proxy.url, connect_timeout_s=BUDGET_S / 2, read_timeout_s=30.0)
        objects = S3ObjectStore(config)
        async with running_api(
            objects, SystemClock(), CONFIG.model_copy(update={"bucket_timeout_s": request.param})
        ) as api:
            yield Deployment(api, proxy)
            proxy.recover()
        await objects.close()


def _request(operation: Operation, job_id: str) -> tuple[str, str, Any]:
    path = operation.path.replace("{type}", "comfyui.job.completed.v1").replace("{number}", "0")
    path = path.replace("{name}", "sdxl").replace("{job_id}", job_id)
    path = path.replace("{batch_id}", job_id).replace("{event_id}", job_id)
    return operation.method, path, operation.example


async def _ask(api: Api, method: str, path: str, document: Any, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    return await api.client.request(method, path, json=document, headers=headers, timeout=CLIENT_TIMEOUT_S)


async def _accepted(api: Api, path: str, document: Any, key: str) -> httpx.Response:
    """The response of a client that repeats a request with the same key while it gets 503."""
    for _ in range(20):
        answer = await _ask(api, "POST", path, document, key=key)
        if answer.status_code != 503:
            break
    assert answer.status_code in (200, 201, 202), answer.text
    return answer


# Seconds each: of the other API, those that read or write more than the operations of this one.
HANGING = (*OPERATIONS, *(one for one in jobs.OPERATIONS if one.handler in (jobs.submit, jobs.show)))


@pytest.mark.parametrize("operation", HANGING, ids=lambda operation: operation.id)
async def test_every_operation_answers_while_the_bucket_hangs(deployment: Deployment, operation: Operation) -> None:
    """Each operation answers within its budget, and a 503 has Retry-After, when the bucket hangs after 0 to 2 calls."""
    job_id = (await _accepted(deployment.api, "/v1/jobs", {"workflow": BLUE}, "first")).json()["job_id"]
    method, path, document = _request(operation, job_id)
    for after in (0, 1, 2):
        deployment.proxy.hang(after)
        answers = await asyncio.gather(*(_ask(deployment.api, method, path, document) for _ in range(AT_ONCE)))
        for answer in answers:
            assert answer.status_code < 500 or answer.status_code == 503, answer.text
            if answer.status_code == 503 and path != "/ready":
                assert answer.headers["retry-after"] == "5"
                assert any(slug in answer.text for slug in ("storage-unavailable", "outcome-unknown"))
        deployment.proxy.recover()


SUBMISSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "job": ("/v1/jobs", {"workflow": BLUE}),
    "batch": ("/v1/batches", {"workflow": BLUE, "input_sets": [[]]}),
    "upload": ("/v1/uploads", {"size_bytes": 8, "content_type": "image/png"}),
}


@pytest.mark.parametrize("what", SUBMISSIONS)
async def test_a_repeated_submission_acts_once_wherever_the_bucket_hung(deployment: Deployment, what: str) -> None:
    """A repeat with the same key creates one resource after the bucket hung at any call of the first request."""
    path, document = SUBMISSIONS[what]
    kinds, created = set[str](), list[str]()
    for after in range(30):
        deployment.proxy.hang(after)
        first = await _ask(deployment.api, "POST", path, document, key=f"key-{after}")
        deployment.proxy.recover()
        repeat = await _accepted(deployment.api, path, document, f"key-{after}")
        again = await _accepted(deployment.api, path, document, f"key-{after}")
        assert _id(repeat) == _id(again)
        created.append(_id(repeat))
        if first.status_code < 300:
            assert _id(first) == _id(repeat)
            break
        kinds.add(first.json()["type"])
    else:
        raise AssertionError("no submission ever succeeded")
    unwritten = set() if what == "upload" else {"/problems/storage-unavailable"}  # an upload starts with a write
    assert kinds == unwritten | {"/problems/outcome-unknown"}
    assert len(set(created)) == len(created)
    if what == "job":
        rows = (await deployment.api.stores.jobs.page("default", itself, limit=100, cursor=None)).rows
        assert sorted(row.job_id for row in rows) == sorted(created)


def _id(answer: httpx.Response) -> str:
    body = answer.json()
    return str(body.get("job_id") or body.get("batch_id") or body["upload_id"])


async def test_a_shared_reading_that_hangs_is_part_of_the_budget(deployment: Deployment) -> None:
    """Submissions that wait for one common reading of the engine's capabilities end in 503 within their budgets."""
    deployment.proxy.held = keys.engine_info(keys.DEFAULT_POOL)
    answers = await asyncio.gather(
        *(_ask(deployment.api, "POST", "/v1/jobs", {"workflow": BLUE}) for _ in range(AT_ONCE))
    )
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["type"] for answer in answers} == {"/problems/storage-unavailable"}


@AMPLE
async def test_an_accepted_job_is_reported_without_its_estimate(deployment: Deployment) -> None:
    """A committed job is accepted although the bucket hangs before the time estimate is read."""
    await submit(deployment.api, workflow=BLUE | {"3": BLUE["1"]})
    await deployment.api.stores.jobs.settled()
    start = len(deployment.proxy.seen)
    await submit(deployment.api, workflow=BLUE | {"3": BLUE["1"], "4": BLUE["1"]})
    calls = deployment.proxy.seen[start:]
    commit = next(number for number, (method, path) in enumerate(calls) if method == "PUT" and "/job.json" in path)
    await deployment.api.stores.jobs.settled()
    deployment.proxy.hang(commit + 1)
    accepted = await _ask(deployment.api, "POST", "/v1/jobs", {"workflow": BLUE | {"3": BLUE["1"], "4": BLUE["2"]}})
    assert accepted.status_code == 202


@AMPLE
async def test_ready_reports_a_hanging_bucket_and_its_recovery(deployment: Deployment) -> None:
    """All probes of GET /ready share one bucket request, and report the bucket's failure and recovery in time."""
    assert (await deployment.api.client.get("/ready")).status_code == 200
    deployment.proxy.hang()
    await asyncio.sleep(2.1)  # the previous result is cached for two seconds
    before = len(deployment.proxy.seen)
    answers = await asyncio.gather(*(_ask(deployment.api, "GET", "/ready", None) for _ in range(AT_ONCE)))
    assert {answer.status_code for answer in answers} == {503}
    assert len(deployment.proxy.seen) - before == 1
    deployment.proxy.recover()
    for _ in range(100):
        answer = await deployment.api.client.get("/ready")
        if answer.status_code == 200:
            break
        await asyncio.sleep(0.1)
    assert answer.status_code == 200


@AMPLE
async def test_a_long_poll_survives_a_hanging_bucket(deployment: Deployment) -> None:
    """A long poll ends with the last known state of the job while the bucket hangs."""
    job_id = (await submit(deployment.api))["job_id"]
    polling = asyncio.create_task(deployment.api.client.get(f"/v1/jobs/{job_id}?wait=3"))
    await asyncio.sleep(0.5)
    deployment.proxy.hang()
    answer = await polling
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")


async def test_a_key_that_cannot_be_looked_up_is_refused_in_time(deployment: Deployment) -> None:
    """The lookup of an API key is part of the budget, and ends in 503 while the bucket hangs."""
    key = await deployment.api.new_key("acme")
    deployment.proxy.hang()
    headers = {"authorization": f"Bearer {key}"}
    requested = (
        deployment.api.client.get("/v1/jobs", headers=headers, timeout=CLIENT_TIMEOUT_S) for _ in range(AT_ONCE)
    )
    assert {answer.status_code for answer in await asyncio.gather(*requested)} == {503}


def test_the_api_has_a_shorter_bucket_timeout_than_workers(clock: ManualClock) -> None:
    """The API's bucket requests end soon after the response, while workers wait longer and keep their jobs."""
    settings = Settings(bucket="b", bucket_timeout_s=6)
    assert api_s3_config(settings).read_timeout_s == 3
    assert s3_config(settings).read_timeout_s == 30


def test_the_files_of_a_tenant_leave_a_transfer_of_the_api_to_others() -> None:
    """In the API all transfers but one may be of the same tenant; a worker, which serves one job, uses all."""
    settings = Settings(bucket="b")
    assert (api_s3_config(settings).transfer_threads, api_s3_config(settings).transfers_of_tenant) == (4, 3)
    assert s3_config(settings).transfers_of_tenant is None


async def test_a_large_batch_has_a_larger_budget(deployment: Deployment) -> None:
    """A large batch whose requests exceed the budget of a single job is accepted and can be cancelled."""
    batch = {"workflow": BLUE, "input_sets": [[]] * 100}
    accepted = await _ask(deployment.api, "POST", "/v1/batches", batch)
    assert accepted.status_code == 202, accepted.text
    path = f"/v1/batches/{accepted.json()['batch_id']}"
    assert (await deployment.api.client.delete(path, timeout=CLIENT_TIMEOUT_S)).status_code == 202

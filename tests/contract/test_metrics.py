"""GET /metrics is off by default, restricted to operators, and contains no tenant's data."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import BLUE, KEY, Api, running_api
from tests.support.plain_http import NO_TLS

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api(clock: ManualClock) -> AsyncIterator[Api]:
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY, metrics=True)) as running:
        yield running


async def read_metrics(api: Api) -> dict[str, float]:
    answer = await api.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = (line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def requests(operation: str, method: str, status: str) -> str:
    return f'comfyui_modal_requests_total{{method="{method}",operation="{operation}",status="{status}"}}'


async def test_requests_jobs_and_refusals_are_counted(api: Api) -> None:
    """Requests, accepted jobs and refusals are counted, and a repeat counts as a request but not as a job."""
    key = {"idempotency-key": "a"}
    for _ in range(2):
        await api.client.post("/v1/jobs", json={"workflow": BLUE}, headers=key)
    await api.client.post("/v1/batches", json={"workflow": BLUE, "input_sets": [[], [], []]})
    await api.client.post("/v1/jobs", json={"workflow": {}})
    await api.client.get("/v1/jobs", headers={"authorization": "Bearer nonsense"})
    found = await read_metrics(api)
    assert found[requests("submit_job", "POST", "2xx")] == 2
    assert found[requests("submit_job", "POST", "4xx")] == 1
    assert found[requests("submit_batch", "POST", "2xx")] == 1
    assert found["comfyui_modal_jobs_accepted_total"] == 4
    assert found['comfyui_modal_refusals_total{problem="not-a-workflow"}'] == 1
    assert found['comfyui_modal_refusals_total{problem="unauthorized"}'] == 1
    count = 'comfyui_modal_request_seconds_count{method="POST",operation="submit_job",status="2xx"}'
    assert found[count] == 2


BODIES = {
    "submit_job": "/v1/jobs",
    "submit_batch": "/v1/batches",
    "submit_named_job": "/v1/workflows/words/jobs",
    "create_upload": "/v1/uploads",
    "test_webhook": "/v1/webhooks/test",
    "replay_dead_letters": "/v1/dead-letters/replay",
}


@pytest.mark.parametrize("framing", ["content-length: 1000", "transfer-encoding: chunked"])
async def test_a_client_that_disconnects_is_not_a_failure(
    api: Api, caplog: pytest.LogCaptureFixture, framing: str
) -> None:
    """A request whose client disconnects within its body counts as unanswered and logs no error."""
    start = '{"url": ' if framing.startswith("content") else '8\r\n{"url": \r\n'
    for path in BODIES.values():
        _, writer = await asyncio.open_connection(api.client.base_url.host, api.client.base_url.port)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}{framing}\r\n\r\n{start}".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    gone = {requests(operation, "POST", "none") for operation in BODIES}
    found = await read_metrics(api)
    async with asyncio.timeout(30):
        while not gone <= set(found):  # each request of this loop lets the server continue
            found = await read_metrics(api)
    assert [found[name] for name in gone] == [1] * len(gone)
    assert not [name for name in found if 'status="5xx"' in name or "internal-error" in name]
    assert [record.message for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING] == []


async def test_clients_cannot_create_labels(api: Api) -> None:
    """Unknown paths and methods share one series, and no label contains tenants, keys or jobs."""
    async with await api.client_of("acme-the-tenant") as acme:
        job_id = (await acme.post("/v1/jobs", json={"workflow": BLUE})).json()["job_id"]
        await acme.get(f"/v1/jobs/{job_id}")
    for number in range(5):
        await api.client.get(f"/v1/invented-{number}")
        await api.client.request(f"BREW{number}", "/health")
    text = (await api.client.get("/metrics")).text
    assert not re.search(rf"acme-the-tenant|{job_id}|{KEY}|invented|BREW", text)
    assert requests("other", "GET", "4xx") in text


async def test_metrics_need_an_admin_key(api: Api) -> None:
    """GET /metrics refuses requests without a key and keys for jobs only."""
    async with httpx.AsyncClient(base_url=api.client.base_url, verify=NO_TLS) as anonymous:
        assert (await anonymous.get("/metrics")).status_code == 401
    async with await api.client_of("acme", "jobs:read", "jobs:write") as acme:
        refused = await acme.get("/metrics")
        assert (refused.status_code, refused.json()["type"]) == (403, "/problems/insufficient-scope")
        assert 'scope="admin"' in refused.headers["www-authenticate"]
    async with await api.client_of("ops", "admin") as ops:
        assert (await ops.get("/metrics")).status_code == 200


REFUSED = {302, 401, 403, 404}
"""Without the metrics. `//metrics` is the root of another host, which leads to the docs."""


async def test_no_spelling_of_the_path_bypasses_the_key(api: Api) -> None:
    """No spelling of the path avoids the check of the key, not even a line feed that the router ignores."""
    spellings = ("/metrics%0A", "/metrics%0a?x=1", "//metrics", "/metrics/", "/%6Detrics%0A", "/metrics%0A%0A")
    async with httpx.AsyncClient(base_url=api.client.base_url, verify=NO_TLS) as anonymous:
        assert {(await anonymous.get(path)).status_code for path in spellings} <= REFUSED
    async with await api.client_of("acme", "jobs:read", "jobs:write") as acme:
        assert {(await acme.get(path)).status_code for path in spellings} <= REFUSED


async def test_metrics_are_off_by_default(clock: ManualClock) -> None:
    """GET /metrics is not found by default, and a request without a key gets 401 as it does for any other path."""
    async with running_api(MemoryObjectStore(clock), clock) as api:
        assert (await api.client.get("/metrics")).status_code == 404
        assert (await api.client.get("/metrics", headers={"authorization": ""})).status_code == 401

"""Requests whose head is enough to refuse them: answered before their body is read."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import KEY, Api, running_api

pytestmark = pytest.mark.anyio

LIVENESS_S = 20
JSON = "content-type: application/json"
GOOD = f"authorization: Bearer {KEY}"


@pytest.fixture
async def api(clock: ManualClock) -> AsyncIterator[Api]:
    config = ApiConfig(api_key=KEY, max_request_bytes=1000)
    async with running_api(MemoryObjectStore(clock), clock, config) as running:
        yield running


async def status_of_head(api: Api, method: str, path: str, *fields: str) -> int:
    """What is answered to a head whose body never comes."""
    reader, writer = await asyncio.open_connection(api.client.base_url.host, api.client.base_url.port)
    writer.write("\r\n".join((f"{method} {path} HTTP/1.1", "host: here", *fields, "", "")).encode())
    try:
        async with asyncio.timeout(LIVENESS_S):
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()


@pytest.mark.parametrize("size", ["content-length: 900", "transfer-encoding: chunked"])
@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("POST", "/v1/jobs", "", 401),
        ("POST", "/v1/batches", "authorization: Bearer ck_test_nobody", 401),
        ("POST", "/v1/nothing", GOOD, 404),
        ("POST", "/nothing", "", 404),
        ("PUT", "/v1/jobs", GOOD, 405),
    ],
)
async def test_a_body_that_is_not_wanted(api: Api, method: str, path: str, key: str, status: int, size: str) -> None:
    """Without a good key, or where nothing takes it."""
    assert await status_of_head(api, method, path, *filter(None, (key, JSON, size))) == status


async def test_a_key_that_may_not_write(api: Api) -> None:
    key = await api.new_key("default", "jobs:read")
    head = (f"authorization: Bearer {key}", JSON, "content-length: 900")
    assert await status_of_head(api, "POST", "/v1/jobs", *head) == 403


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/batches", "/v1/workflows/still/jobs"])
@pytest.mark.parametrize("size", ["1001", "9" * 17])
async def test_a_body_beyond_its_limit(api: Api, path: str, size: str) -> None:
    """Its Content-Length says so."""
    assert await status_of_head(api, "POST", path, GOOD, JSON, f"content-length: {size}") == 413


@pytest.mark.parametrize("charset", ["utf-16", '"UTF-32LE"', "iso-8859-1"])
async def test_a_body_in_another_charset(api: Api, charset: str) -> None:
    """JSON is UTF-8, whatever the operation."""
    kind = f"content-type: application/json; charset={charset}"
    for path in ("/v1/jobs", "/v1/uploads"):
        assert await status_of_head(api, "POST", path, GOOD, kind, "content-length: 900") == 415

"""Requests that are refused by their head are answered before their body is read."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import KEY, Api, running_api

pytestmark = pytest.mark.anyio

TIME_LIMIT_S = 20
JSON = "content-type: application/json"
GOOD = f"authorization: Bearer {KEY}"


@pytest.fixture
async def api(clock: ManualClock) -> AsyncIterator[Api]:
    config = ApiConfig(api_key=KEY, max_request_bytes=1000)
    async with running_api(MemoryObjectStore(clock), clock, config) as running:
        yield running


async def status_of_head(api: Api, method: str, path: str, *fields: str) -> int:
    """The status of the response to a head whose body never arrives."""
    reader, writer = await asyncio.open_connection(api.client.base_url.host, api.client.base_url.port)
    writer.write("\r\n".join((f"{method} {path} HTTP/1.1", "host: here", *fields, "", "")).encode())
    try:
        async with asyncio.timeout(TIME_LIMIT_S):
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()


@pytest.mark.parametrize("size", ["content-length: 900", "transfer-encoding: chunked"])
@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("POST", "/v1/jobs", "", 401),
        ("POST", "/v1/batches", "authorization: Bearer ck_test_unknown", 401),
        ("POST", "/v1/nothing", GOOD, 404),
        ("POST", "/nothing", "", 404),
        ("PUT", "/v1/jobs", GOOD, 405),
    ],
)
async def test_a_request_without_a_key_or_an_operation_is_refused_by_its_head(
    api: Api, method: str, path: str, key: str, status: int, size: str
) -> None:
    """A request without a valid key, or to an unknown operation, is refused before its body arrives."""
    assert await status_of_head(api, method, path, *filter(None, (key, JSON, size))) == status


async def test_a_key_without_the_scope_is_refused_by_its_head(api: Api) -> None:
    """A request whose key lacks the scope is refused before its body arrives."""
    key = await api.new_key("default", "jobs:read")
    head = (f"authorization: Bearer {key}", JSON, "content-length: 900")
    assert await status_of_head(api, "POST", "/v1/jobs", *head) == 403


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/batches", "/v1/workflows/still/jobs"])
@pytest.mark.parametrize("size", ["1001", "9" * 17])
async def test_a_body_above_its_limit_is_refused_by_its_head(api: Api, path: str, size: str) -> None:
    """A request whose Content-Length exceeds the limit is refused before its body arrives."""
    assert await status_of_head(api, "POST", path, GOOD, JSON, f"content-length: {size}") == 413


@pytest.mark.parametrize("charset", ["utf-16", '"UTF-32LE"', "iso-8859-1"])
async def test_a_body_in_another_charset_is_refused_by_its_head(api: Api, charset: str) -> None:
    """A request with JSON in another charset than UTF-8 is refused before its body arrives."""
    kind = f"content-type: application/json; charset={charset}"
    for path in ("/v1/jobs", "/v1/uploads"):
        assert await status_of_head(api, "POST", path, GOOD, kind, "content-length: 900") == 415

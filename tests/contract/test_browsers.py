"""Headers for browsers: the security headers of every response, and CORS."""

import re

import pytest

from app.config import ApiConfig
from app.openapi import OPERATIONS
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import KEY, running_api

pytestmark = pytest.mark.anyio

PAGE = "https://app.example.com"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,idempotency-key",
}


@pytest.mark.parametrize("path", ["/health", "/v1/jobs", "/v1/jobs/unknown", "/nowhere", "/openapi.json", "/docs"])
async def test_no_response_can_be_framed_or_sniffed(clock: ManualClock, path: str) -> None:
    """Every response, refusals and pages included, forbids framing and content sniffing."""
    async with running_api(MemoryObjectStore(clock), clock) as api:
        headers = (await api.client.get(path)).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-request-id"]
    assert "access-control-allow-origin" not in headers


async def test_no_redirect_follows_the_host_header(clock: ManualClock) -> None:
    """A path with a trailing slash gets 404 and no redirect, whatever Host and forwarding headers it has."""
    paths = {re.sub(r"{[^}]*}", "x", operation.path) for operation in OPERATIONS} | {"/docs", "/openapi.json"}
    evil = {"host": "evil.example", "x-forwarded-host": "evil.example", "x-forwarded-proto": "https"}
    async with running_api(MemoryObjectStore(clock), clock) as api:
        for path in sorted(paths):
            answer = await api.client.get(f"{path}/", headers=evil, follow_redirects=False)
            assert (path, answer.status_code, answer.headers.get("location")) == (path, 404, None)
        schema = await api.client.get("/schemas/comfyui.job.completed.v1.json", headers=evil)
        assert "evil.example" not in schema.text


async def test_no_origin_is_allowed_by_default(clock: ManualClock) -> None:
    """Without configured origins, a preflight request gets no CORS headers."""
    async with running_api(MemoryObjectStore(clock), clock) as api:
        answer = await api.client.options("/v1/jobs", headers=PREFLIGHT)
        assert answer.status_code in {401, 405}
        assert "access-control-allow-origin" not in answer.headers


async def test_only_configured_origins_are_allowed(clock: ManualClock) -> None:
    """A configured origin gets CORS headers, and no other origin does."""
    config = ApiConfig(api_key=KEY, cors_origins=(PAGE,))
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        api.client.headers.pop("authorization")
        allowed = await api.client.options("/v1/jobs", headers=PREFLIGHT)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "access-control-allow-credentials" not in allowed.headers
        refused = await api.client.options("/v1/jobs", headers=PREFLIGHT | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in refused.headers
        seen = await api.client.get("/v1/jobs", headers={"origin": PAGE, "authorization": f"Bearer {KEY}"})
        assert (seen.status_code, seen.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "etag" in seen.headers["access-control-expose-headers"].lower()

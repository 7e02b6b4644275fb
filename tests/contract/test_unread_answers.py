"""Clients that request large responses and do not read them, on a real server."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import BLUE, KEY, Api, running_api, submit

pytestmark = pytest.mark.anyio

MIB = 1024**2
LARGE = BLUE | {str(n): {"class_type": "PrimitiveString", "inputs": {"value": "x" * 1_000_000}} for n in range(3, 9)}
"""A graph of 6 MB, which is more than the kernel buffers at both ends."""


@asynccontextmanager
async def unread_request(api: Api, path: str) -> AsyncIterator[None]:
    """A client that has sent this request and reads only the beginning of the response."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((api.client.base_url.host, api.client.base_url.port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {KEY}\r\n\r\n".encode())
        assert await asyncio.to_thread(connection.recv, 12) == b"HTTP/1.1 200"
        yield


async def test_unread_large_responses_are_limited(clock: ManualClock) -> None:
    """Unread large responses count for their tenant until their client reads or leaves; small responses are sent."""
    config = ApiConfig(api_key=KEY, max_unread_bytes=10 * MIB)
    async with running_api(MemoryObjectStore(clock), clock, config) as api, await api.client_of("other") as other:
        job_id = (await submit(api, workflow=LARGE))["job_id"]
        others = (await other.post("/v1/jobs", json={"workflow": LARGE})).json()["job_id"]
        async with unread_request(api, f"/v1/jobs/{job_id}/workflow"):
            refusal = await api.client.get(f"/v1/jobs/{job_id}/workflow")
            assert (refusal.status_code, refusal.headers["retry-after"]) == (429, "1")
            assert refusal.json()["type"] == "/problems/too-many-requests"
            assert (await api.client.get(f"/v1/jobs/{job_id}")).status_code == 200
            assert (await other.get(f"/v1/jobs/{others}/workflow")).json() == LARGE
        for _ in range(200):  # until the server knows that the client has gone
            if (answer := await api.client.get(f"/v1/jobs/{job_id}/workflow")).status_code == 200:
                break
            await asyncio.sleep(0.05)
        assert answer.json() == LARGE


@pytest.mark.parametrize("most", [1, 10 * MIB])
async def test_a_large_response_is_complete(clock: ManualClock, most: int) -> None:
    """A large response is sent in full in any number of pieces, even above the limit if no other response is unread."""
    config = ApiConfig(api_key=KEY, max_unread_bytes=most)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        for length in (10, 65_400, 65_536, 131_072, 300_001):
            graph = BLUE | {"3": {"class_type": "PrimitiveString", "inputs": {"value": "x" * length}}}
            job_id = (await submit(api, workflow=graph))["job_id"]
            assert (await api.client.get(f"/v1/jobs/{job_id}/workflow")).json() == graph

"""Long polls: GET of a job with `wait`."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from app.batch_state import BatchState
from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import SignedRequest
from storage.clock import ManualClock
from storage.jobs.models import ProgressDetails
from storage.jobs.record import JobRecord
from tests.support.api_server import BLUE, KEY, Api, running_api, submit, work
from tests.support.plain_http import NO_TLS
from tests.support.records import OUTPUT
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


def waiters(api: Api) -> int:
    """Return the number of requests that wait for jobs or batches."""
    count: int = api.app.state.context.long_polls._of_tenant.total()
    return count


def states_in_memory(kind: type[JobRecord] | type[BatchState], mark: str) -> int:
    """Return how many parsed records or batch states with this metadata are in memory."""
    gc.collect()
    found = [one for one in gc.get_objects() if type(one) is kind]
    records = [one.record if isinstance(one, BatchState) else one for one in found]
    return sum(record.metadata.get("mark") == mark for record in records)


@asynccontextmanager
async def abandonable(api: Api, *requests: bytes) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """Connections that have sent these requests and read no answer."""
    url, connections = api.client.base_url, []
    for request in requests:
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(request)
        connections.append(writer)
    try:
        yield connections
    finally:
        for writer in connections:
            writer.close()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {KEY}\r\n\r\n".encode()


async def test_requests_that_wait_share_one_record(memory_api: Api) -> None:
    """Fifty requests that wait for one job hold one parsed record of it, whichever of them read it."""
    job_id = (await submit(memory_api, metadata={"mark": "shared"}))["job_id"]
    url = f"/v1/jobs/{job_id}?wait=60"
    async with abandonable(memory_api, *[get(url)] * 50):
        await until(lambda: waiters(memory_api) == 50)
        assert states_in_memory(JobRecord, "shared") == 1
        await memory_api.client.delete(f"/v1/jobs/{job_id}")


async def test_requests_that_wait_share_the_state_of_a_batch(memory_api: Api) -> None:
    """Requests that begin to wait for one batch at different times hold one state of it."""
    document = {"workflow": BLUE, "input_sets": [[]], "metadata": {"mark": "batch"}}
    batch_id = (await memory_api.client.post("/v1/batches", json=document)).json()["batch_id"]
    request = get(f"/v1/batches/{batch_id}?wait=60")
    async with abandonable(memory_api, request):
        await until(lambda: waiters(memory_api) == 1)
        async with abandonable(memory_api, request):
            await until(lambda: waiters(memory_api) == 2)
            assert states_in_memory(BatchState, "batch") == 1


@pytest.mark.parametrize("kind", ["job", "batch", "submission"])
async def test_a_wait_ends_when_its_client_disconnects(memory_api: Api, kind: str) -> None:
    """A request that waits is over, and holds nothing, once its client has closed the connection."""
    body = json.dumps({"workflow": BLUE}).encode()
    if kind == "job":
        request = get(f"/v1/jobs/{(await submit(memory_api))['job_id']}?wait=60")
    elif kind == "batch":
        document = {"workflow": BLUE, "input_sets": [[]]}
        batch = (await memory_api.client.post("/v1/batches", json=document)).json()
        request = get(f"/v1/batches/{batch['batch_id']}?wait=60")
    else:
        more = f"content-type: application/json\r\nprefer: wait=60\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        request = get("/v1/jobs").replace(b"GET", b"POST", 1).removesuffix(b"\r\n") + more + body
    async with abandonable(memory_api, request, request) as connections:
        await until(lambda: waiters(memory_api) == 2)
        for connection in connections:
            connection.close()
        await until(lambda: waiters(memory_api) == 0)
    assert memory_api.app.state.context.watch._polls == memory_api.app.state.context.batch_watch._polls == {}


@pytest.mark.parametrize("is_left", [True, False], ids=["the client disconnects", "the job ends"])
async def test_what_a_wait_held_is_freed_at_its_end(memory_api: Api, is_left: bool) -> None:
    """After a wait its record is in no cycle of references: an idle process makes no full garbage collection."""
    gc.collect()
    gc.disable()
    try:
        job_id = (await submit(memory_api))["job_id"]
        async with abandonable(memory_api, *[get(f"/v1/jobs/{job_id}?wait=60")] * 3) as connections:
            await until(lambda: waiters(memory_api) == 3)
            records = memory_api.stores.jobs._in_use
            assert len(records) == 1
            for connection in connections if is_left else ():
                connection.close()
            if not is_left:
                await work(memory_api)
            await until(lambda: waiters(memory_api) == 0)
            await until(lambda: len(records) == 0)
    finally:
        gc.enable()


async def test_a_long_poll_returns_when_the_job_ends(memory_api: Api) -> None:
    """Long polls return when the job ends, and 200 of them share one read of the bucket."""
    accepted = await submit(memory_api)
    claimed = await memory_api.queue.claim("default", "w")
    assert claimed is not None
    url = f"/v1/jobs/{accepted['job_id']}?wait=20"
    limits = httpx.Limits(max_connections=None)
    headers = dict(memory_api.client.headers)
    async with httpx.AsyncClient(
        base_url=memory_api.client.base_url, headers=headers, limits=limits, timeout=30, verify=NO_TLS
    ) as client:
        waiting = [asyncio.create_task(client.get(url)) for _ in range(200)]
        requests = memory_api.objects.requests  # type: ignore[attr-defined]  # the in-memory store counts
        await until(lambda: waiters(memory_api) == len(waiting))
        before = requests["GET"]
        await asyncio.sleep(2.2)
        assert requests["GET"] - before <= 4
        now = memory_api.stores.clock.now()
        await memory_api.stores.jobs.evolve_from(claimed, lambda r: r.complete(attempt=1, now=now, outputs=()))
        answers = await asyncio.gather(*waiting)
    assert {answer.json()["status"] for answer in answers} == {"completed"}


class CountedSignatures(MemoryObjectStore):
    """A bucket that counts the URLs that it presigns."""

    signed = 0

    def presign_get(self, key: str, *, expires_s: int, filename: str, content_type: str) -> SignedRequest:
        self.signed += 1
        return super().presign_get(key, expires_s=expires_s, filename=filename, content_type=content_type)


async def test_waiters_for_one_change_share_one_response(clock: ManualClock) -> None:
    """The end of a job is rendered, and its outputs are signed, once for all clients that wait for it."""
    objects = CountedSignatures(clock)
    async with running_api(objects, clock) as api:
        accepted = await submit(api)
        url = f"/v1/jobs/{accepted['job_id']}?wait=20"
        waiting = [asyncio.create_task(api.client.get(url)) for _ in range(50)]
        await until(lambda: objects.requests["GET"] >= len(waiting))
        await work(api, OUTPUT)
        answers = await asyncio.gather(*waiting)
        assert {answer.json()["status"] for answer in answers} == {"completed"}
        assert objects.signed <= 2


async def test_a_long_poll_ends_when_the_job_is_removed(memory_api: Api) -> None:
    """A long poll gets 410 when its job is removed, and not the last known state after its full wait."""
    job_id = (await submit(memory_api))["job_id"]
    url = f"/v1/jobs/{job_id}"
    await memory_api.client.delete(url)
    etag = (await memory_api.client.get(url)).headers["etag"]
    waiting = asyncio.create_task(memory_api.client.get(f"{url}?wait=20", headers={"if-none-match": etag}))
    await asyncio.sleep(0.1)
    await memory_api.stores.remover.purge(await memory_api.stores.jobs.read("default", job_id))
    assert (await waiting).status_code == 410


@pytest.mark.real_bucket("ETags of a server")
async def test_a_long_poll_with_an_etag_returns_at_the_next_change(api: Api) -> None:
    """A long poll with an ETag returns at the next change, and gets 304 if there is none."""
    accepted = await submit(api)
    url = f"/v1/jobs/{accepted['job_id']}"
    etag = (await api.client.get(url)).headers["etag"]
    assert (await api.client.get(url, headers={"if-none-match": etag})).status_code == 304
    unchanged = await api.client.get(f"{url}?wait=1", headers={"if-none-match": etag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    waiting = asyncio.create_task(api.client.get(f"{url}?wait=20", headers={"if-none-match": etag}))
    await asyncio.sleep(0.2)
    claimed = await api.queue.claim("default", "w")
    assert claimed is not None
    answer = await waiting
    assert answer.json()["status"] == "running"
    details = ProgressDetails(current_node="1", nodes_completed=1, nodes_total=2, step="3/8")
    now = api.stores.clock.now()
    await api.stores.jobs.evolve_from(
        claimed,
        lambda r: r.report(attempt=1, now=now, lease_s=60, progress=42, details=details, outputs=(OUTPUT,)),
    )
    job = (await api.client.get(url)).json()
    assert (job["progress"], job["progress_details"]["step"], len(job["outputs"])) == (42, "3/8", 1)


async def test_the_long_polls_of_a_tenant_are_limited(clock: ManualClock) -> None:
    """A long poll above the limit gets 429, while requests without a wait are served and ended polls free slots."""
    config = ApiConfig(api_key=KEY, max_long_polls=1)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        job = (await api.client.post("/v1/jobs", json={"workflow": BLUE})).json()["job_id"]
        polls = [asyncio.create_task(api.client.get(f"/v1/jobs/{job}?wait=60", timeout=90)) for _ in range(2)]
        done, (waiting,) = await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
        refused = done.pop().result()
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/too-many-requests")
        assert (await api.client.get(f"/v1/jobs/{job}")).status_code == 200
        await api.client.delete(f"/v1/jobs/{job}")
        assert (await waiting).json()["status"] == "failed"
        assert (await api.client.get(f"/v1/jobs/{job}?wait=1")).status_code == 200

"""Many clients that request the same expensive thing cost the API and the bucket one read at a time."""

import asyncio
import threading
from typing import Any, cast

import pytest

from app.api import workflows
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import KeyPage
from storage.clock import ManualClock
from tests.support.api_server import BLUE, Api, running_api

pytestmark = pytest.mark.anyio

READERS = 16


class SlowLists(MemoryObjectStore):
    """A bucket that answers LISTs once `may_end` is set; `most` is the highest number of concurrent LISTs."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.started = asyncio.Event()
        self.in_progress = self.most = 0

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        self.in_progress += 1
        self.most = max(self.most, self.in_progress)
        self.started.set()
        try:
            await self.may_end.wait()
            return await super().list(prefix, after=after, limit=limit)
        finally:
            self.in_progress -= 1

    def hold(self) -> None:
        self.may_end.clear()
        self.started.clear()
        self.most = 0


@pytest.mark.parametrize(
    "path",
    ["/v1/batches/{batch_id}", "/v1/jobs?limit=200", "/v1/dead-letters", "/v1/webhooks/endpoints"],
)
async def test_concurrent_readers_share_a_response(clock: ManualClock, path: str) -> None:
    """Each of several readers gets the full response, and the bucket has at most one LIST in progress."""
    objects = SlowLists(clock)
    async with running_api(objects, clock) as api:
        sets = [[{"node": "1", "field": "color", "value": value}] for value in range(3)]
        batch = (await api.client.post("/v1/batches", json={"workflow": BLUE, "input_sets": sets})).json()
        path = path.format(batch_id=batch["batch_id"])
        alone = (await api.client.get(path)).json()
        objects.hold()
        reading = [asyncio.create_task(api.client.get(path)) for _ in range(READERS)]
        await objects.started.wait()
        await asyncio.sleep(0.3)  # for the others to arrive; a late one would still find at most one LIST
        objects.may_end.set()
        answers = await asyncio.gather(*reading)
        assert [answer.json() for answer in answers] == [alone] * READERS
        assert objects.most == 1


async def test_concurrent_cancellations_of_a_batch_are_one(clock: ManualClock) -> None:
    """Requests that cancel a batch while another does share the next cancellation, which has nothing left to do."""
    objects = SlowLists(clock)
    async with running_api(objects, clock) as api:
        sets = [[{"node": "1", "field": "color", "value": value}] for value in range(20)]
        batch = (await api.client.post("/v1/batches", json={"workflow": BLUE, "input_sets": sets})).json()
        path = f"/v1/batches/{batch['batch_id']}"
        objects.requests.clear()
        assert (await api.client.delete(path)).status_code == 202
        alone = sum(objects.requests.values())
        objects.requests.clear()
        objects.hold()
        cancelling = [asyncio.create_task(api.client.delete(path)) for _ in range(READERS)]
        await objects.started.wait()
        await asyncio.sleep(0.3)  # as above
        objects.may_end.set()
        answers = await asyncio.gather(*cancelling)
        assert {(answer.status_code, answer.json()["counts"]["failed"]) for answer in answers} == {(202, 20)}
        assert objects.most == 1
        assert sum(objects.requests.values()) <= 2 * alone


async def test_readers_of_the_system_share_a_response(memory_api: Api) -> None:
    """GET /v1/system reads the bucket once a second for all tenants."""
    async with await memory_api.client_of("other") as other:
        objects = cast(MemoryObjectStore, memory_api.objects)
        await other.get("/v1/limits")
        objects.requests.clear()
        clients = (memory_api.client, other) * (READERS // 2)
        reading = (client.get("/v1/system") for client in clients)
        answers = await asyncio.gather(*reading)
        assert {answer.status_code for answer in answers} == {200}
        assert objects.requests["GET"] < READERS


@pytest.mark.parametrize(("function", "path"), [("workflow_row", ""), ("workflow_view", "/sdxl")])
async def test_workflows_are_checked_off_the_event_loop(
    memory_api: Api, monkeypatch: pytest.MonkeyPatch, function: str, path: str
) -> None:
    """Shipped workflows are checked in a thread, because all of them take milliseconds of the event loop."""
    threads: set[str] = set()
    render = getattr(workflows, function)

    def rendering(*about: Any) -> Any:
        threads.add(threading.current_thread().name)
        return render(*about)

    monkeypatch.setattr(workflows, function, rendering)
    assert (await memory_api.client.get(f"/v1/workflows{path}")).status_code == 200
    assert threads
    assert all(name.startswith("heavy_") for name in threads)

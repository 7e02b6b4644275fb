"""Many clients that poll the same large answer cost the API and the bucket one reading of it at a time."""

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
    """Its lists are answered once `may_end` is set. `most` were under way at once."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.begun = asyncio.Event()
        self.under_way = self.most = 0

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.begun.set()
        try:
            await self.may_end.wait()
            return await super().list(prefix, after=after, limit=limit)
        finally:
            self.under_way -= 1

    def hold(self) -> None:
        self.may_end.clear()
        self.begun.clear()
        self.most = 0


@pytest.mark.parametrize(
    "path",
    ["/v1/batches/{batch_id}", "/v1/jobs?limit=200", "/v1/dead-letters", "/v1/webhooks/endpoints"],
)
async def test_readers_of_one_answer_share_it(clock: ManualClock, path: str) -> None:
    """Each gets it whole; the bucket is asked for it by one of them at a time."""
    objects = SlowLists(clock)
    async with running_api(objects, clock) as api:
        sets = [[{"node": "1", "field": "color", "value": value}] for value in range(3)]
        batch = (await api.client.post("/v1/batches", json={"workflow": BLUE, "input_sets": sets})).json()
        path = path.format(batch_id=batch["batch_id"])
        alone = (await api.client.get(path)).json()
        objects.hold()
        reading = [asyncio.create_task(api.client.get(path)) for _ in range(READERS)]
        await objects.begun.wait()
        await asyncio.sleep(0.3)  # for the others to arrive; were one late, it would still find one list at a time
        objects.may_end.set()
        answers = await asyncio.gather(*reading)
        assert [answer.json() for answer in answers] == [alone] * READERS
        assert objects.most == 1


async def test_readers_of_the_system_share_it(memory_api: Api) -> None:
    """Of whatever tenant and with whatever query: for a second the bucket is asked for it once."""
    async with await memory_api.client_of("other") as other:
        objects = cast(MemoryObjectStore, memory_api.objects)
        await other.get("/v1/limits")
        objects.requests.clear()
        clients = (memory_api.client, other) * (READERS // 2)
        reading = (client.get("/v1/system", params={"n": number}) for number, client in enumerate(clients))
        answers = await asyncio.gather(*reading)
        assert {answer.status_code for answer in answers} == {200}
        assert objects.requests["GET"] < READERS


@pytest.mark.parametrize(("function", "path"), [("workflow_row", ""), ("workflow_view", "/sdxl")])
async def test_workflows_are_judged_off_the_event_loop(
    memory_api: Api, monkeypatch: pytest.MonkeyPatch, function: str, path: str
) -> None:
    """All that come with this project take milliseconds, in which nobody else would be answered."""
    threads: set[str] = set()
    render = getattr(workflows, function)

    def rendering(*about: Any) -> Any:
        threads.add(threading.current_thread().name)
        return render(*about)

    monkeypatch.setattr(workflows, function, rendering)
    assert (await memory_api.client.get(f"/v1/workflows{path}")).status_code == 200
    assert threads == {"heavy_0"}

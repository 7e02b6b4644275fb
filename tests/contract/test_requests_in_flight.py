"""The requests in flight of a tenant are limited, and those that wait for a job do not count."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import KeyPage
from storage.clock import ManualClock
from tests.support.api_server import BLUE, KEY, Api, running_api
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

MOST = 3


class HeldLists(MemoryObjectStore):
    """A bucket that answers LISTs once `may_end` is set."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.may_end = asyncio.Event()
        self.started = 0

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        self.started += 1
        await self.may_end.wait()
        return await super().list(prefix, after=after, limit=limit)


@pytest.fixture
def objects(clock: ManualClock) -> HeldLists:
    return HeldLists(clock)


@pytest.fixture
async def api(objects: HeldLists, clock: ManualClock) -> AsyncIterator[Api]:
    async with running_api(objects, clock, ApiConfig(api_key=KEY, max_requests_in_flight=MOST)) as api:
        yield api


async def test_a_request_above_the_limit_is_refused(api: Api, objects: HeldLists) -> None:
    """A request above the limit gets 429 with Retry-After until another ends, and other tenants are unaffected."""
    async with await api.client_of("other") as other:
        held = [asyncio.create_task(api.client.get("/v1/jobs", params={"limit": 1 + n})) for n in range(MOST)]
        await until(lambda: objects.started >= MOST)
        refused = await api.client.post("/v1/jobs", json={"workflow": BLUE})
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/too-many-requests")
        assert refused.headers["retry-after"] == "1"
        assert str(MOST) in refused.json()["detail"]
        assert (await other.post("/v1/jobs", json={"workflow": BLUE})).status_code == 202
        assert (await api.client.get("/health")).status_code == 200
        objects.may_end.set()
        assert {answer.status_code for answer in await asyncio.gather(*held)} == {200}
        assert (await api.client.post("/v1/jobs", json={"workflow": BLUE})).status_code == 202


async def test_long_polls_leave_room_for_submissions(api: Api) -> None:
    """Long polls release their slots while they wait, so that any number of them leaves room for submissions."""
    job_id = (await api.client.post("/v1/jobs", json={"workflow": BLUE})).json()["job_id"]
    polls = []
    for number in range(1, 2 * MOST + 1):
        polls.append(asyncio.create_task(api.client.get(f"/v1/jobs/{job_id}", params={"wait": 60}, timeout=90)))
        await asyncio.sleep(0.05)
        accepted = await api.client.post("/v1/jobs", json={"workflow": BLUE})
        assert accepted.status_code == 202, number
    assert not any(poll.done() for poll in polls)
    await api.stores.jobs.evolve("default", job_id, lambda record: record.cancel(now=api.stores.clock.now()))
    assert {answer.json()["status"] for answer in await asyncio.gather(*polls)} == {"failed"}

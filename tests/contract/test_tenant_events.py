"""GET /v1/events: all jobs of a tenant in one stream."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from app.api.tenant_events import FIRST_POLL_S, TENANT_EVENTS
from app.config import ApiConfig
from app.streams.feeds import MOST_KEPT_BYTES
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import KeyPage
from storage.clock import ManualClock
from storage.jobs.feed import JobFeed
from storage.jobs.record import JobRecord
from storage.jobs.store import JobStore
from storage.signal import MemorySignal
from tests.support.api_server import BLUE, KEY, Api, running_api, submit, work
from tests.support.records import OUTPUT, a_job
from tests.support.sse import Received, listening

pytestmark = pytest.mark.anyio

CONFIG = ApiConfig(api_key=KEY, feed_poll_s=0.05)


@pytest.fixture
async def followed(clock: ManualClock) -> AsyncIterator[Api]:
    """An API that polls the index often."""
    async with running_api(MemoryObjectStore(clock), clock, CONFIG) as api:
        yield api


def summary(events: list[Received]) -> list[tuple[str, str]]:
    return [(event.data["job_id"], event.data.get("status", event.name)) for event in events]


async def test_one_stream_tells_of_all_jobs(followed: Api) -> None:
    """A stream begins with the active jobs, and then sends every status and output, outputs before the end."""
    old = (await submit(followed))["job_id"]
    async with listening(followed.client, "/v1/events") as stream:
        sync = await stream.next()
        assert (sync.name, sync.data) == ("sync", {"active": [old], "complete": True})
        await work(followed, OUTPUT)
        seen = await stream.until("status", status="completed")
        new = (await submit(followed))["job_id"]
        seen += await stream.until("status", status="queued")
        await work(followed, OUTPUT)
        seen += await stream.until("status", status="completed")
    assert summary(seen) == [
        *((old, "output"), (old, "completed")),
        *((new, "queued"), (new, "output"), (new, "completed")),
    ]
    for event in seen:
        TENANT_EVENTS[event.name].model_validate(event.data)


async def test_a_job_that_is_quicker_than_a_poll_is_sent(followed: Api) -> None:
    """A job that was submitted and has ended between two polls is found all the same."""
    async with listening(followed.client, "/v1/events") as stream:
        await stream.next()
        job_id = (await submit(followed))["job_id"]
        await work(followed, OUTPUT)
        seen = await stream.until("status", status="completed")
    assert summary(seen)[-2:] == [(job_id, "output"), (job_id, "completed")]


async def test_a_stream_continues_where_it_was(followed: Api) -> None:
    """A client that reconnects to the same process with its last id gets what it missed, and no sync."""
    async with listening(followed.client, "/v1/events") as stream:
        sync = await stream.next()
    job_id = (await submit(followed))["job_id"]
    await work(followed)
    async with listening(followed.client, "/v1/events", Last_Event_ID=sync.id or "") as stream:
        seen = await stream.until("status", status="completed")
        last = seen[-1].id or ""
    assert summary(seen)[-1] == (job_id, "completed")
    assert "sync" not in {event.name for event in seen}
    for unknown in ("other-1", "", last[:-1] + "999", "1-running-0"):
        async with listening(followed.client, "/v1/events", Last_Event_ID=unknown) as stream:
            assert (await stream.next()).name == "sync"


async def test_a_tenant_sees_its_own_jobs_alone(followed: Api) -> None:
    """The stream of a tenant has no event of another tenant's jobs."""
    async with await followed.client_of("acme") as other, listening(other, "/v1/events") as stream:
        await stream.next()
        await submit(followed)
        with pytest.raises(TimeoutError):
            await stream.next(0.5)


async def test_the_cost_does_not_depend_on_the_streams(clock: ManualClock) -> None:
    """Ten streams cost the bucket as much as one: three LISTs a poll, and no GET while nothing changes."""
    objects = MemoryObjectStore(clock)
    async with running_api(objects, clock, CONFIG) as api:
        await submit(api)
        async with listening(api.client, "/v1/events") as first:
            await first.next()
            before = objects.requests.copy()
            await asyncio.sleep(0.5)
            alone = objects.requests - before
            async with listening(api.client, "/v1/events") as second, listening(api.client, "/v1/events") as third:
                await asyncio.gather(second.next(), third.next())
                before = objects.requests.copy()
                await asyncio.sleep(0.5)
                together = objects.requests - before
    assert alone["GET"] == together["GET"] == 0
    assert together["LIST"] <= alone["LIST"] + 6  # two polls more in the same time, on a machine that is less busy


async def test_a_stream_of_a_hanging_bucket_has_its_longest_duration(clock: ManualClock) -> None:
    """A stream whose tenant's index cannot be read ends, without an event, when its longest duration is over."""

    class Hanging(MemoryObjectStore):
        async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
            await asyncio.Event().wait()
            raise AssertionError

    config = CONFIG.model_copy(update={"max_stream_s": 0.1})
    async with running_api(Hanging(clock), clock, config) as api:
        answer = await api.client.get("/v1/events", timeout=FIRST_POLL_S / 2)
        assert (answer.status_code, answer.content) == (200, b"")


async def test_a_poll_costs_its_changes(clock: ManualClock) -> None:
    """A poll at 300 active jobs makes three LISTs, and a GET for each job that changed."""
    objects = MemoryObjectStore(clock)
    jobs = JobStore(objects, clock, MemorySignal())
    feed = JobFeed(jobs, objects, clock, "default")
    stored = [await jobs.create(a_job(created_at=clock.now()), workflow=b"{}") for _ in range(300)]
    assert await feed.poll() == []
    assert len(feed.active) == 300
    clock.set(clock.now() + timedelta(minutes=5))
    assert await feed.poll() == []

    def claimed(record: JobRecord) -> JobRecord:
        return record.claim(worker="w", now=clock.now(), lease_s=60)

    changed = [await jobs.evolve_from(one, claimed) for one in stored[:3]]
    await jobs.settled()
    objects.requests.clear()
    found = await feed.poll()
    assert {record.job_id for record in found} == {one.record.job_id for one in changed}
    assert objects.requests == {"LIST": 3, "GET": 3}
    objects.requests.clear()
    assert await feed.poll() == []
    assert objects.requests == {"LIST": 3}


async def test_a_stopping_server_ends_its_streams(followed: Api) -> None:
    """The stream ends when the server stops, so that its client reconnects at once."""
    async with listening(followed.client, "/v1/events") as stream:
        await stream.next()
        followed.app.state.context.end_waits()
        assert await stream.rest() == []


async def test_a_feed_keeps_a_bounded_number_of_bytes(followed: Api) -> None:
    """A client that missed more bytes than a feed keeps gets `sync`, and one that missed less gets all of it."""
    metadata = {f"k{number}": "\u0001" * 512 for number in range(16)}  # 49 KB of JSON in each event
    batch = {"workflow": BLUE, "input_sets": [[]] * (MOST_KEPT_BYTES // 49_000 + 20), "metadata": metadata}
    async with listening(followed.client, "/v1/events") as stream:
        first = await stream.next()
        assert (await followed.client.post("/v1/batches", json=batch)).status_code == 202
        ids = [(await stream.next()).id or "" for _ in batch["input_sets"]]
        async with listening(followed.client, "/v1/events", last_event_id=first.id or "") as late:
            assert (await late.next()).name == "sync"
        async with listening(followed.client, "/v1/events", last_event_id=ids[-30]) as late:
            assert [(await late.next()).id for _ in range(29)] == ids[-29:]

"""GET /v1/jobs/{job_id}/events and GET /api/v2/jobs/{job_id}/events."""

import asyncio
import contextlib
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.api.job_events import EVENTS
from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.jobs.models import Output, ProgressDetails
from storage.jobs.store import StoredJob
from tests.support.api_server import KEY, Api, running_api, submit, work
from tests.support.records import OUTPUT
from tests.support.sse import Received, listening
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

DOCS = Path(__file__).parents[2] / "docs/how-to/events.md"
SECOND = OUTPUT.model_copy(update={"filename": "b.png", "key": OUTPUT.key.replace("/0000/", "/0001/")})


def names(events: list[Received]) -> list[str]:
    return [event.data.get("status", event.name) for event in events]


async def claimed(api: Api) -> StoredJob:
    stored = await api.queue.claim("default", "w")
    assert stored is not None
    return stored


async def report(api: Api, stored: StoredJob, progress: int, *outputs: Output) -> StoredJob:
    details = ProgressDetails(current_node="1", nodes_completed=1, nodes_total=2, step="3/8")
    now = api.stores.clock.now()
    return await api.stores.jobs.evolve_from(
        stored,
        lambda r: r.report(attempt=1, now=now, lease_s=60, progress=progress, details=details, outputs=outputs),
    )


async def complete(api: Api, stored: StoredJob, *outputs: Output) -> None:
    now = api.stores.clock.now()
    await api.stores.jobs.evolve_from(stored, lambda r: r.complete(attempt=1, now=now, outputs=outputs))


@pytest.mark.real_bucket("changes that a poll finds")
async def test_a_stream_tells_the_life_of_a_job(api: Api) -> None:
    """A stream sends each status, progress, node and output as it happens, and ends with the terminal status."""
    job = await submit(api)
    async with listening(api.client, job["urls"]["events"]) as stream:
        assert stream.response.headers["content-type"] == "text/event-stream"
        assert stream.response.headers["cache-control"] == "no-cache"
        assert stream.response.headers["x-accel-buffering"] == "no"
        assert (await stream.next()).data["status"] == "queued"
        stored = await claimed(api)
        assert (await stream.next()).data["status"] == "running"
        stored = await report(api, stored, 42, OUTPUT)
        seen = await stream.until("output")
        assert seen[-1].data["output"]["filename"] == OUTPUT.filename
        assert seen[-2].data["progress_details"]["step"] == "3/8"
        assert seen[-3].data["state"] == "started"
        await complete(api, stored, OUTPUT, SECOND)
        rest = await stream.rest()
    assert names(rest) == ["node", "progress", "output", "completed"]
    for event in (*seen, *rest):
        EVENTS[event.name].model_validate(event.data)
        assert (event.id is not None) == (event.name in ("status", "output"))


async def test_a_late_stream_sends_outputs_before_the_end(memory_api: Api) -> None:
    """A client that connects after the end gets the outputs, the terminal status, and the end of the stream."""
    job = await submit(memory_api)
    await work(memory_api, OUTPUT, SECOND)
    for path in ("/v1", "/api/v2"):
        async with listening(memory_api.client, f"{path}/jobs/{job['job_id']}/events") as stream:
            events = await stream.rest()
        assert names(events) == ["output", "output", "completed" if path == "/v1" else "succeeded"]


@pytest.mark.parametrize("way", ["header", "query"])
async def test_a_stream_continues_after_the_last_event(memory_api: Api, way: str) -> None:
    """A client that sends the id of its last event gets what it missed, and 204 once it knows the end."""
    job = await submit(memory_api)
    await work(memory_api, OUTPUT, SECOND)
    url = f"/v1/jobs/{job['job_id']}/events"
    async with listening(memory_api.client, url) as stream:
        first, *rest = await stream.rest()
    for last, left in ((first, rest), (rest[0], rest[1:])):
        headers = {"Last_Event_ID": last.id or ""} if way == "header" else {}
        query = "" if way == "header" else f"?since={last.id}"
        async with listening(memory_api.client, url + query, **headers) as stream:
            # The URLs of outputs are signed anew.
            assert [(event.name, event.id) for event in await stream.rest()] == [(e.name, e.id) for e in left]
    known = await memory_api.client.get(url, headers={"last-event-id": rest[-1].id or ""})
    assert (known.status_code, known.content) == (204, b"")


async def test_an_id_that_no_event_had_is_refused(memory_api: Api) -> None:
    """A malformed Last-Event-ID is refused, rather than answered by a stream that repeats or leaves out events."""
    job = await submit(memory_api)
    refused = await memory_api.client.get(f"/v1/jobs/{job['job_id']}/events", headers={"last-event-id": "17"})
    assert refused.json()["type"] == "/problems/invalid-parameter"
    unknown = await memory_api.client.get("/v1/jobs/0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10/events")
    assert unknown.status_code == 404


async def test_the_frames_of_comfy_v2(memory_api: Api) -> None:
    """The stream of Comfy API v2 begins with a snapshot, has no ids and no other frames, and its progress rises."""
    job = await submit(memory_api)
    stored = await report(memory_api, await claimed(memory_api), 80, OUTPUT)
    async with listening(memory_api.client, f"/api/v2/jobs/{job['job_id']}/events") as stream:
        snapshot = [await stream.next() for _ in range(3)]
        stored = await report(memory_api, stored, 40, OUTPUT, SECOND)
        added = await stream.next()
        await complete(memory_api, stored, OUTPUT, SECOND)
        rest = await stream.rest()
    assert names(snapshot) == ["running", "progress", "output"]
    assert snapshot[1].data["value"] == 0.8
    assert snapshot[2].data["id"].startswith(job["job_id"])
    assert added.data["name"] == "b.png"
    assert [event.data.get("value") for event in rest] == [1.0, None]
    assert names(rest) == ["progress", "succeeded"]
    assert {event.id for event in (*snapshot, added, *rest)} == {None}


async def test_streams_of_one_job_share_its_poll(memory_api: Api) -> None:
    """Ten streams of a job read it as often as one, and a stream that is closed reads it no more."""
    job = await submit(memory_api)
    requests = memory_api.objects.requests  # type: ignore[attr-defined]  # the in-memory store counts
    url = f"/v1/jobs/{job['job_id']}/events"
    async with asyncio.TaskGroup() as group:
        begun = asyncio.Barrier(11)

        async def listen() -> None:
            async with listening(memory_api.client, url) as stream:
                await stream.next()
                await begun.wait()
                assert names(await stream.rest())[-1] == "failed"

        for _ in range(10):
            group.create_task(listen())
        await begun.wait()
        before = requests["GET"]
        await asyncio.sleep(1.5)
        assert requests["GET"] - before <= 3
        await memory_api.client.delete(f"/v1/jobs/{job['job_id']}")
    before = requests["GET"]
    await asyncio.sleep(1.2)
    assert requests["GET"] == before


async def test_open_streams_are_limited(clock: ManualClock) -> None:
    """A stream beyond the limit of its key, tenant or process gets 429 with Retry-After, until another one ends."""
    config = ApiConfig(api_key=KEY, max_streams=3, max_streams_of_key=1)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        job = await submit(api)
        url = f"/v1/jobs/{job['job_id']}/events"
        async with listening(api.client, url) as stream:
            await stream.next()
            refused = await api.client.get(url)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
            assert refused.json()["type"] == "/problems/too-many-streams"
            in_v2 = await api.client.get(f"/api/v2/jobs/{job['job_id']}/events")
            assert (in_v2.status_code, in_v2.json()["error"]["code"]) == (429, "too_many_streams")
            async with await api.client_of("default") as second:
                assert "1 of your streams are open" in (await second.get(url)).json()["detail"]
            others = [await api.client_of(tenant) for tenant in ("acme", "blue", "coral")]
            async with contextlib.AsyncExitStack() as opened:
                # Kept in a list: a listener that is collected closes its stream.
                held = [await opened.enter_async_context(listening(client, "/v1/events")) for client in others[:2]]
                for other in held:
                    await other.next()
                assert "3 streams are open" in (await others[2].get("/v1/events")).json()["detail"]
            for client in others:
                await client.aclose()

        async def is_free() -> bool:
            async with listening(api.client, url) as again:
                return again.response.status_code == 200

        for _ in range(400):  # the server notices the disconnection a little later
            if await is_free():
                return
            await asyncio.sleep(0.05)
        pytest.fail("the closed streams keep their places")


async def test_a_stream_ends_after_its_longest_duration(clock: ManualClock) -> None:
    """A stream ends by itself, without a terminal status, and its client continues where it ended."""
    config = ApiConfig(api_key=KEY, max_stream_s=0.2)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        job = await submit(api)
        url = f"/v1/jobs/{job['job_id']}/events"
        async with listening(api.client, url) as stream:
            (queued,) = await stream.rest()
        async with listening(api.client, url, Last_Event_ID=queued.id or "") as stream:
            assert await stream.rest() == []


async def test_a_quiet_stream_is_kept_alive(clock: ManualClock) -> None:
    """A stream without events sends comments, and ends when its key is revoked."""
    config = ApiConfig(api_key=KEY, keep_alive_s=0.05)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        job = await submit(api)
        async with await api.client_of("default") as own, listening(own, job["urls"]["events"]) as stream:
            await stream.next()
            reading = asyncio.create_task(stream.rest())
            await until(lambda: stream.comments >= 2)
            (record,) = await api.stores.api_keys.all()
            await api.stores.api_keys.revoke(record.kid)
            clock.set(clock.now() + timedelta(minutes=1))
            assert await asyncio.wait_for(reading, 20) == []


async def test_a_stream_ends_when_its_job_is_removed(memory_api: Api) -> None:
    """A stream ends when its job is removed, and the client's next request gets 410."""
    job = await submit(memory_api)
    url = f"/v1/jobs/{job['job_id']}/events"
    async with listening(memory_api.client, url) as stream:
        await stream.next()
        await memory_api.client.delete(f"/v1/jobs/{job['job_id']}?purge=true")
        assert names(await stream.rest()) in ([], ["failed"])
    assert (await memory_api.client.get(url)).status_code == 410


async def test_a_stopping_server_ends_its_streams(memory_api: Api) -> None:
    """Streams end when the server stops, so that their clients reconnect to another process at once."""
    job = await submit(memory_api)
    async with listening(memory_api.client, f"/v1/jobs/{job['job_id']}/events") as stream:
        await stream.next()
        memory_api.app.state.context.end_waits()
        assert await stream.rest() == []


async def test_the_client_of_the_docs_follows_a_job(memory_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python code of docs/how-to/events.md prints a job's events and returns its status."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    monkeypatch.setenv("COMFYUI_MODAL_API_URL", str(memory_api.client.base_url).rstrip("/"))
    monkeypatch.setenv("COMFYUI_MODAL_API_KEY", KEY)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  the code that a reader copies
    job = await submit(memory_api)
    following = asyncio.create_task(asyncio.to_thread(names["follow"], job["job_id"]))
    await work(memory_api, OUTPUT)
    assert await following == "completed"


def test_the_docs_list_every_event() -> None:
    """docs/how-to/events.md lists the events of /v1, and says which of them have ids."""
    rows = re.findall(r"^\| `(\w+)` \| (yes|no) \|", DOCS.read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == [*EVENTS]


async def test_an_id_of_a_later_attempt_is_refused(memory_api: Api) -> None:
    """The id of an attempt that the job has not had is refused: nothing would follow it."""
    job = await submit(memory_api)
    answer = await memory_api.client.get(f"/v1/jobs/{job['job_id']}/events?since=9-none-")
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-parameter")
    assert "no attempt 9" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/jobs/{}/events", "/v1/events", "/api/v2/jobs/{}/events"])
async def test_a_head_request_holds_no_stream(api: Api, path: str) -> None:
    """HEAD on a stream is answered at once with its headers, while the job waits."""
    job_id = (await submit(api))["job_id"]
    answer = await asyncio.wait_for(api.client.head(path.format(job_id)), 10)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")

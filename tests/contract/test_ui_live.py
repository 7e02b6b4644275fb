"""The streams that pages follow with the session of their cookie: those of /v1, with its limits and its checks."""

import asyncio
import re
from datetime import timedelta

import pytest

from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import BLUE, KEY, Api, running_api, submit, work
from tests.support.browsers import logged_in
from tests.support.sse import listening
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


async def test_a_page_follows_its_job_from_what_it_shows(memory_api: Api) -> None:
    """The stream of a page begins at once, sends only what the page does not show yet, and ends with the job."""
    job_id = (await submit(memory_api))["job_id"]
    async with logged_in(memory_api) as browser:
        page = (await browser.get(f"/ui/jobs/{job_id}")).text
        found = re.search(r'data-stream="([^"]+)" data-since="([^"]+)"', page)
        assert found is not None
        path, since = found.groups()
        async with listening(browser.client, f"{path}?since={since}") as stream:
            # Its head has arrived, although there is no event yet.
            assert (stream.response.status_code, path) == (200, f"/ui/jobs/{job_id}/events")
            await work(memory_api)
            last = (await stream.until("status", status="completed"))[-1]
        assert "data-stream" not in (await browser.get(f"/ui/jobs/{job_id}/live")).text
        again = await browser.client.get(path, headers={"last-event-id": str(last.id)})
        assert again.status_code == 204  # after which a browser does not connect any more


async def test_the_list_follows_the_jobs_of_its_tenant(memory_api: Api) -> None:
    """The stream of the list has the events of the session's tenant, and none of another."""
    async with logged_in(memory_api, await memory_api.new_key("acme")) as browser:
        assert 'data-stream="/ui/events"' in (await browser.get("/ui/jobs")).text
        async with listening(browser.client, "/ui/events") as stream:
            assert (await stream.next()).name == "sync"
            await submit(memory_api)
            async with await memory_api.client_of("acme") as own:
                mine = (await own.post("/v1/jobs", json={"workflow": BLUE})).json()
            assert (await stream.next()).data["job_id"] == mine["job_id"]
        foreign = await browser.get(f"/ui/jobs/{(await submit(memory_api))['job_id']}/events")
        assert foreign.status_code == 404


async def test_a_list_is_not_read_again_where_its_stream_goes_on(memory_api: Api) -> None:
    """A list that is opened while its tenant is followed continues the events from where it was read."""
    async with logged_in(memory_api) as browser, listening(browser.client, "/ui/events") as first:
        assert (await first.next()).name == "sync"
        found = re.search(r'data-stream="/ui/events" data-since="([^"]+)"', (await browser.get("/ui/jobs")).text)
        assert found is not None
        async with listening(browser.client, f"/ui/events?since={found[1]}") as second:
            mine = await submit(memory_api)
            event = await second.next()
            assert (event.name, event.data["job_id"]) == ("status", mine["job_id"])


async def test_streams_of_pages_count_for_their_key(clock: ManualClock) -> None:
    """A page's stream counts like one of its key, beyond the limit it is refused, and a closed tab frees it."""
    config = ApiConfig(api_key=KEY, max_streams_of_key=1)
    async with running_api(MemoryObjectStore(clock), clock, config) as api, logged_in(api) as browser:
        path = f"/ui/jobs/{(await submit(api))['job_id']}/events"
        async with listening(browser.client, path) as stream:
            await stream.next()
            for refused in (await browser.get(path), await api.client.get(path.replace("/ui", "/v1"))):
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")

        async def is_free() -> bool:
            async with listening(browser.client, path) as again:
                return again.response.status_code == 200

        for _ in range(400):  # the server notices the disconnection a little later
            if await is_free():
                return
            await asyncio.sleep(0.05)
        pytest.fail("a closed tab keeps its place")


async def test_a_stream_ends_with_its_session(clock: ManualClock) -> None:
    """The stream of a page ends when the key of its session is revoked."""
    config = ApiConfig(api_key=KEY, keep_alive_s=0.05)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        key = await api.new_key("acme")
        async with logged_in(api, key) as browser, listening(browser.client, "/ui/events") as stream:
            await stream.next()
            reading = asyncio.create_task(stream.rest())
            await until(lambda: stream.comments >= 2)
            await api.stores.api_keys.revoke(key.split("_")[2])
            clock.set(clock.now() + timedelta(minutes=1))
            assert await asyncio.wait_for(reading, 20) == []
            assert (await browser.get("/ui/events")).headers["location"].startswith("/ui/login")

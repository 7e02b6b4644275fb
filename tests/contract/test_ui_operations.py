"""Batches, receivers, dead letters and keys on the pages: what operators see and do there."""

import html
import re
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from app.config import ApiConfig
from app.ui.workflows import SCANNED
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock, SystemClock
from tests.support.api_server import BLUE, KEY, Api, running_api, work
from tests.support.browsers import Browser, logged_in
from tests.support.counted_bucket import CountedBucket
from tests.support.crowds import completed, fill_listed
from tests.support.post import URL, Post
from workers.webhooks.post import Answer

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    """A clock that begins now, because verifiers refuse old timestamps."""
    return ManualClock(SystemClock().now().replace(microsecond=0))


@pytest.fixture
async def posting(clock: ManualClock) -> AsyncIterator[tuple[Api, Post]]:
    objects = MemoryObjectStore(clock)
    async with running_api(objects, clock, ApiConfig(api_key=KEY, webhook_test_wait_s=0.0)) as api:
        yield api, Post(objects, clock)


async def text_of(browser: Browser, path: str) -> str:
    return html.unescape((await browser.get(path)).text)


async def test_the_jobs_of_a_batch_are_shown_by_status(memory_api: Api) -> None:
    """The page of a batch has its jobs in the order of the request, by status, and cancels those that are not over."""
    body = {"workflow": BLUE, "input_sets": [[], [], []], "metadata": {"campaign": "spring"}}
    batch = (await memory_api.client.post("/v1/batches", json=body)).json()
    await work(memory_api)
    done = [job["job_id"] for job in (await memory_api.client.get("/v1/jobs?status=completed")).json()["jobs"]]
    ids = [job["job_id"] for job in batch["jobs"]]
    address = f"/ui/batches/{batch['batch_id']}"

    def listed(page: str) -> list[str]:
        return re.findall(r'<li><a href="/ui/jobs/([0-9a-f-]{36})"><b>\d', page)

    async with logged_in(memory_api) as browser:
        assert f'href="{address}"' in await text_of(browser, "/ui/batches")
        page = await text_of(browser, address)
        assert (listed(page), "spring" in page) == (ids, True)
        assert listed(await text_of(browser, f"{address}?status=completed")) == done
        assert listed(await text_of(browser, f"{address}?status=queued")) == [one for one in ids if one not in done]
        assert "No job of the batch is <b>" in await text_of(browser, f"{address}?status=<b>")
        answer = await browser.submit(address, f"{address}/cancel", **{"from": "batch"})
        assert answer.headers["location"] == address
        assert len(listed(await text_of(browser, f"{address}?status=failed"))) == 2
        assert "Cancel all" not in await text_of(browser, address)
        assert (await browser.get(f"/ui/batches/{ids[0]}")).status_code == 404


async def test_a_known_receiver_is_tested_without_its_url(posting: tuple[Api, Post]) -> None:
    """A receiver of the list is tested by a name that hides the token in its URL, and a disabled one is enabled."""
    api, post = posting
    url = f"{URL}?token=a-token"
    document = {"workflow": BLUE, "webhook_url": url, "webhook_events": ["queued"]}
    (await api.client.post("/v1/jobs", json=document)).raise_for_status()
    post.receiver.answers = [Answer(410, 5)]
    await post.send()
    async with logged_in(api) as browser:
        page = await text_of(browser, "/ui/webhooks")
        assert ("disabled" in page, "Test and enable" in page, "a-token" in page) == (True, True, False)
        found = re.search(r'name="receiver" value="([0-9a-f]{16})"', page)
        assert found is not None
        token = await browser.token()
        assert (await browser.post("/ui/webhooks/test", {"csrf": token, "receiver": found[1]})).status_code == 303
        await post.send()
        assert [event["type"] for event in post.receiver.events()][-1] == "comfyui.webhook.test.v1"
        assert post.receiver.posts[-1][0] == url
        assert "working" in await text_of(browser, "/ui/webhooks")
        unknown = await browser.post("/ui/webhooks/test", {"csrf": token, "receiver": "0" * 16})
        assert unknown.status_code == 404


async def test_dead_letters_are_replayed_one_by_one_and_all(posting: tuple[Api, Post]) -> None:
    """Dead letters come page by page; one is sent again wherever it is in the list, and so are all."""
    api, post = posting
    records = [await post.completed("completed") for _ in range(3)]
    post.receiver.answers = [Answer(415, 5)] * 3
    await post.send()

    def events(page: str) -> list[str]:
        return re.findall(r'name="event_id" value="([^"]+)"', page)

    async with logged_in(api) as browser:
        page = await text_of(browser, "/ui/webhooks?limit=2")
        assert len(events(page)) == 2
        older = re.search(r'href="(/ui/webhooks\?cursor=[^"#]+)', page)
        assert older is not None
        (last,) = events(await text_of(browser, older[1]))
        fields = {"csrf": await browser.token(), "event_id": last, "job_id": last.split("_")[1]}
        assert (await browser.post("/ui/webhooks/replay", fields)).status_code == 303
        await post.send()
        assert post.receiver.events()[-1]["id"] == last
        assert last not in events(await text_of(browser, "/ui/webhooks"))
        assert (await browser.submit("/ui/webhooks", "/ui/webhooks/replay")).status_code == 303
        await post.send()
        assert "None. Every event was delivered" in await text_of(browser, "/ui/webhooks")
        gone = await browser.post("/ui/webhooks/replay", {"csrf": fields["csrf"], "event_id": "evt_x"})
        assert gone.status_code == 404
        assert (await browser.get("/ui/webhooks?cursor=x")).status_code == 422
    assert len(post.receiver.posts) == 3 + len(records)


@pytest.mark.parametrize("graphs", ["", "strangers", "own", "<b>"])
async def test_an_operator_says_whose_graphs_come_with_a_key(memory_api: Api, graphs: str) -> None:
    """A key that an operator makes has the rules for graphs of the form; a tenant cannot choose others for its keys."""
    chosen = graphs if graphs in ("strangers", "own") else None
    fields = {"scope.jobs:read": "on", "tenant": "acme", "graphs": graphs}
    admin = await memory_api.new_key("acme", "admin", "jobs:read", "jobs:write")
    for key, expected in ((KEY, chosen), (admin, None)):
        async with logged_in(memory_api, key) as browser:
            page = (await browser.post("/ui/keys", {"csrf": await browser.token(), **fields})).text
        found = re.search(r'id="new-key">([^<]+)<', page)
        assert found is not None
        record = await memory_api.stores.api_keys.authenticate(found[1])
        assert record is not None
        assert record.graphs == expected


async def test_the_latest_runs_of_a_workflow_are_found_among_the_newest_jobs(clock: ManualClock) -> None:
    """The page of a workflow reads no job; its runs are found among 200 jobs, however many there are."""
    bucket, now = CountedBucket(clock), clock.now()
    mine = completed(now - timedelta(seconds=SCANNED - 1), workflow_name="still")
    others = [completed(now - timedelta(seconds=n)) for n in range(SCANNED + 50) if n != SCANNED - 1]
    await fill_listed(bucket, [mine, *others, completed(now - timedelta(hours=1), workflow_name="still")])
    async with running_api(bucket, clock) as api, logged_in(api) as browser:
        bucket.take()
        assert 'hx-get="/ui/workflows/still/runs"' in await text_of(browser, "/ui/workflows/still")
        assert bucket.take().requests <= Counter({"GET": 1})
        page = await text_of(browser, "/ui/workflows/still/runs")
        assert re.findall(r'href="/ui/jobs/([0-9a-f-]{36})"', page) == [mine.job_id]
        assert bucket.take().requests == Counter({"LIST": 1, "GET": SCANNED})
        assert f"None among your newest {SCANNED}" in await text_of(browser, "/ui/workflows/clip/runs")

"""What the pages withstand: jobs with a thousand of everything, other pages that embed ours, and eyes on links."""

import asyncio
import json
import logging
import re
from datetime import timedelta

import pytest

from app.config import ApiConfig
from app.ui import job
from app.ui.job import MOST_VALUE, MOST_VALUES
from app.ui.keys import KEYS_OF_TENANT
from app.ui.live import MOST_OUTPUTS
from app.ui.routing import MOST_PAGES
from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import KeyPage
from storage.clock import ManualClock
from storage.index_keys import BATCHES, dead_letters_prefix, list_prefix
from storage.jobs.models import Input
from tests.support.api_server import BLUE, KEY, Api, running_api, submit, work
from tests.support.browsers import Browser, browser_of, logged_in
from tests.support.counted_bucket import CountedBucket
from tests.support.post import Post
from tests.support.records import OUTPUT
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

LARGEST_PAGE = 2 * 1024 * 1024
FRAME = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
SAME_SITE = {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}


async def test_the_page_of_a_huge_job_has_bounds(memory_api: Api) -> None:
    """The page of a job with a thousand nodes, inputs, outputs and long names has a bound and says what it omits."""
    long = "x" * 190
    graph = {f"{n} {long}": {"class_type": long, "inputs": {"text": long, "from": ["0", 0]}} for n in range(1_000)}
    values = [Input(node=f"{n} {long}", field="text", value="<b>" * 20_000).model_dump() for n in range(5)]
    values += [Input(node=f"{n} {long}", field="text", value="y").model_dump() for n in range(5, 1_000)]
    fields = {"inputs": values, "metadata": {f"{n:02}{long}"[:64]: "z" * 500 for n in range(16)}}
    job_id = (await submit(memory_api, workflow={"0": BLUE["1"], **graph, "end": BLUE["2"] | _reads("0")}, **fields))[
        "job_id"
    ]
    outputs = [
        OUTPUT.model_copy(update={"key": keys.output("default", job_id, 1, n, "x"), "filename": f"{n}{long}"})
        for n in range(1_000)
    ]
    await work(memory_api, *outputs)
    async with logged_in(memory_api) as browser:
        page = (await browser.get(f"/ui/jobs/{job_id}")).text
        assert len(page) < LARGEST_PAGE
        assert page.count("<figure") == MOST_OUTPUTS
        assert f"{1_000 - MOST_OUTPUTS} more are not shown" in page
        shown = re.findall(r'<dt><bdi>[^<]*</bdi></dt><dd class="text">([^<]*)…?</dd>', page)
        assert len(shown) == MOST_VALUES
        assert max(map(len, shown)) <= 4 * MOST_VALUE + 1  # as entities
        assert len((await browser.get("/ui/jobs")).text) < 40_000


async def test_outputs_come_from_the_bucket_alone(memory_api: Api) -> None:
    """No page links to an output on our own origin, and our only document is the graph, as a download."""
    job_id = (await submit(memory_api))["job_id"]
    output = OUTPUT.model_copy(
        update={"content_type": "text/html", "key": keys.output("default", job_id, 1, 0, "evil.html")}
    )
    await work(memory_api, output)
    async with logged_in(memory_api) as browser:
        page = (await browser.get(f"/ui/jobs/{job_id}")).text
        (link,) = re.findall(r'<figcaption><a href="([^"]+)" download', page)
        own = str(memory_api.client.base_url).rstrip("/")
        assert not link.startswith(("/", own))
        for name in ("live", "logs", "deliveries", "workflow"):
            answer = await browser.get(f"/ui/jobs/{job_id}/{name}")
            assert answer.status_code == 200
            is_page = answer.headers["content-type"].startswith("text/html")
            assert is_page or answer.headers["content-disposition"].startswith("attachment"), name


async def test_the_newest_deliveries_of_a_job_are_shown(
    memory_api: Api, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page of a job shows its newest deliveries, and says that there are others."""
    monkeypatch.setattr(job, "MOST_DELIVERIES", 2)
    post = Post(memory_api.objects, clock)
    record = await post.completed("queued", "started", "completed")
    await post.send()
    async with logged_in(memory_api) as browser:
        page = (await browser.get(f"/ui/jobs/{record.job_id}/deliveries")).text
    assert re.findall(r"<b>([^<]*)</b> <span class", page) == ["job.started.v1", "job.completed.v1"]
    assert "The newest deliveries" in page


async def test_another_page_embeds_none_of_ours(memory_api: Api) -> None:
    """A page of another port cannot ask for ours as a part of itself, nor hold a stream; a link from it works."""
    async with logged_in(memory_api) as browser:
        for path in ("/ui/jobs", "/ui/events", "/ui/login"):
            for asked in (SAME_SITE, SAME_SITE | FRAME):
                refused = await browser.client.get(path, headers=asked)
                assert (refused.status_code, "another page" in refused.text) == (403, True), path
        followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        for destination in ({}, {"sec-fetch-dest": "document"}):
            assert (await browser.client.get("/ui/jobs", headers=followed | destination)).status_code == 200
        # Windows that another page opens would hold the streams of the key.
        assert (await browser.client.get("/ui/events", headers=followed)).status_code == 403


async def test_a_link_leaves_no_trace(memory_api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """The token of a one-time link and the key of a login are in no log, no redirect, and no page after them."""
    caplog.set_level(logging.DEBUG)
    async with browser_of(memory_api) as browser:
        path = (await memory_api.client.post("/ui/links")).json()["path"]
        token = path.partition("token=")[2]
        asked = await browser.client.get(path, headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})
        # Only our own style sheet learns the address of the question.
        assert asked.headers["referrer-policy"] == "same-origin"
        opened = await browser.post("/ui/open", {"token": token})
        assert (opened.status_code, opened.headers["location"]) == (303, "/ui/jobs")
        assert token not in (await browser.get("/ui/jobs")).text
        refused = await browser.post("/ui/open", {"token": token})
        assert (refused.status_code, token in refused.text) == (401, False)
        await browser.post("/ui/login", {"key": KEY})
    ours = [json.dumps(one.__dict__, default=str) for one in caplog.records if one.name.startswith(("app", "storage"))]
    assert "/ui/open" in "".join(ours)
    assert not [line for line in ours if token in line or KEY in line]


def _reads(node: str) -> dict[str, object]:
    return {"inputs": {"images": [node, 0], "filename_prefix": "x"}}


async def test_a_form_holds_one_place_for_what_it_takes_in_memory(clock: ManualClock) -> None:
    """A large form waits for one of its tenant's places, and each checked graph for one of the pages, but for no more.

    A small form's graph may take much memory as well, by many values or by the subgraphs of an editor's file.
    """
    config = ApiConfig(api_key=KEY, max_receiving_requests=2)
    async with running_api(MemoryObjectStore(clock), clock, config) as api, logged_in(api) as browser:
        token = await browser.token()

        async def check(graph: str) -> int:
            return (await browser.post("/ui/try/check", {"csrf": token, "graph": graph})).status_code

        many_values, many_bytes = json.dumps([[]] * 3_000), json.dumps("x" * 100_000)
        receiving, pages = api.app.state.context.receiving, api.app.state.context.pages
        leave = await receiving.enter("default")
        waiting = asyncio.create_task(check(many_bytes))
        await until(lambda: bool(receiving._places._of_tenant["default"]._waiters))
        assert await check(many_values) == 200
        leave()
        assert await waiting == 200
        held = [await pages.enter("default") for _ in range(MOST_PAGES // 2)]
        both = [asyncio.create_task(check(graph)) for graph in (many_values, many_bytes)]
        await until(lambda: len(pages._of_tenant["default"]._waiters or ()) == len(both))
        held.pop()()
        assert await asyncio.gather(*both) == [200, 200]


async def new_key(browser: Browser) -> int:
    """Make a key of the session's tenant by the form and return the status."""
    made = await browser.post("/ui/keys", {"csrf": await browser.token(), "scope.jobs:read": "on"})
    return made.status_code


async def test_a_tenant_has_a_bounded_number_of_keys(memory_api: Api, clock: ManualClock) -> None:
    """A tenant makes no key beyond its limit, and then a new one only in the place of the oldest that has ended.

    Keys that are made at the same time do not exceed the limit together, and another tenant's do not count.
    """
    store, admin = memory_api.stores.api_keys, await memory_api.new_key("acme", "admin", "jobs:read")
    for _ in range(KEYS_OF_TENANT - 3):
        clock.set(clock.now() + timedelta(seconds=1))
        await memory_api.new_key("acme")
    await memory_api.new_key("globex")

    async def kids() -> list[str]:
        return [record.kid for record in await store.all() if record.tenant == "acme"]

    async with logged_in(memory_api, admin) as browser:
        answers = await asyncio.gather(*(new_key(browser) for _ in range(5)))
        assert sorted(answers) == [200, 200, 422, 422, 422]
        token, before = await browser.token(), await kids()
        for kid in (before[5], before[3]):
            assert (await browser.post(f"/ui/keys/{kid}/revoke", {"csrf": token})).status_code == 303
        assert await kids() == before
        page = await browser.post("/ui/keys", {"csrf": token, "scope.jobs:read": "on"})
        assert (page.text.count('class="badge failed"'), page.text.count("<tr>")) == (1, 1 + KEYS_OF_TENANT)
        after = await kids()
        assert (len(after), set(before) - set(after)) == (KEYS_OF_TENANT, {before[3]})
        assert [await new_key(browser) for _ in range(2)] == [200, 422]


async def test_a_key_is_revoked_by_reading_it_alone(clock: ManualClock) -> None:
    """A revocation costs one GET and one write however many keys there are, and as much for a tenant as an operator."""
    bucket = CountedBucket(clock)
    async with running_api(bucket, clock) as api:
        admin = await api.new_key("acme", "admin")
        for key in (KEY, admin):
            kids = [(await api.new_key("acme")).split("_")[2] for _ in range(20)]
            async with logged_in(api, key) as browser:
                token = await browser.token()
                bucket.take()
                assert (await browser.post(f"/ui/keys/{kids[0]}/revoke", {"csrf": token})).status_code == 303
                assert bucket.take().requests == {"GET": 1, "PUT": 1}


class GatedLists(MemoryObjectStore):
    """A bucket whose LISTs below `prefix` are counted and wait until the gate is open."""

    def __init__(self, clock: ManualClock, prefix: str) -> None:
        super().__init__(clock)
        self.prefix = prefix
        self.lists = 0
        self.gate = asyncio.Event()

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        if prefix == self.prefix:
            self.lists += 1
            await self.gate.wait()
        return await super().list(prefix, after=after, limit=limit)


@pytest.mark.parametrize(
    ("method", "path", "prefix"),
    [
        ("GET", "/ui/keys", keys.API_KEYS),
        ("GET", "/ui/webhooks", keys.endpoints_prefix("default")),
        ("GET", "/ui/webhooks", dead_letters_prefix("default")),
        ("GET", "/ui/batches", list_prefix("default", BATCHES)),
        ("POST", "/v1/dead-letters/replay", dead_letters_prefix("default")),
    ],
)
async def test_requests_at_the_same_time_share_a_read(clock: ManualClock, method: str, path: str, prefix: str) -> None:
    """What a page lists is read once for the first request, and once more for all that arrive during that read."""
    bucket = GatedLists(clock, prefix)
    async with running_api(bucket, clock) as api, logged_in(api) as browser:
        client = browser.client if path.startswith("/ui") else api.client

        async def status() -> int:
            return (await client.request(method, path, json={} if method == "POST" else None)).status_code

        asked = [asyncio.create_task(status())]
        await until(lambda: bucket.lists == 1)
        asked += [asyncio.create_task(status()) for _ in range(3)]
        in_flight = api.app.state.context.in_flight
        await until(
            lambda: in_flight._of_tenant["default"] == len(asked) and bool(api.app.state.context.shared._to_come)
        )
        for _ in range(50):
            await asyncio.sleep(0)  # those that were let in go on to the read
        bucket.gate.set()
        assert set(await asyncio.gather(*asked)) <= {200, 202}
        assert bucket.lists < len(asked)  # a late one may find the second read begun

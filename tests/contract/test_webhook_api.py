"""Deliveries, dead letters, tests and schemas of webhooks over HTTP, on a clock that the test controls."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from typing import cast

import httpx
import pytest

from app.api import webhooks
from app.config import ApiConfig
from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import KeyPage
from storage.clock import ManualClock, SystemClock
from storage.index_keys import OUTBOX
from storage.jobs.models import ProgressDetails
from storage.webhooks.deliveries import Delivery
from storage.webhooks.endpoints import EndpointStore
from storage.webhooks.signing import new_secret
from tests.support.api_server import BLUE, Api, running_api
from tests.support.post import URL, Post
from tests.support.waiting import until
from workers.webhooks.post import Answer

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    """A clock that begins now, because verifiers refuse old timestamps."""
    return ManualClock(SystemClock().now().replace(microsecond=0))


@pytest.fixture
async def api(clock: ManualClock) -> AsyncIterator[tuple[Api, Post]]:
    objects = MemoryObjectStore(clock)
    async with running_api(objects, clock, ApiConfig(api_key="test-key", webhook_test_wait_s=0.5)) as api:
        yield api, Post(objects, clock)


async def test_deliveries_are_shown_and_repeated(api: tuple[Api, Post]) -> None:
    """Deliveries show every attempt without secrets of the receiver's URL, and a redelivery has the same id."""
    server, post = api
    document = {"workflow": BLUE, "webhook_url": f"{URL}?token=secret", "webhook_events": ["queued"]}
    job_id = (await server.client.post("/v1/jobs", json=document)).json()["job_id"]
    path = f"/v1/jobs/{job_id}/deliveries"
    assert (await server.client.get(path)).json() == {"deliveries": [], "next_cursor": None}
    await post.send()
    (delivery,) = (await server.client.get(path)).json()["deliveries"]
    assert (delivery["status"], delivery["url"], len(delivery["attempts"])) == ("delivered", f"{URL}?…", 1)
    again = await server.client.post(f"{path}/{delivery['event_id']}/redeliver")
    assert (again.status_code, again.json()["status"]) == (202, "pending")
    await post.send()
    assert [headers["webhook-id"] for _, headers, _ in post.receiver.posts] == [delivery["event_id"]] * 2
    for wrong in ("evt_x", f"evt_{job_id}_000009", delivery["event_id"].replace(job_id[:8], "00000000")):
        refused = await server.client.post(f"{path}/{wrong}/redeliver")
        assert (refused.status_code, refused.json()["type"]) == (404, "/problems/unknown-event")


async def test_concurrent_webhook_tests_of_a_tenant_are_limited(clock: ManualClock) -> None:
    """A webhook test above the limit is refused and stores nothing, while that of another tenant is sent."""
    config = ApiConfig(api_key="test-key", webhook_test_wait_s=60, max_webhook_tests=2)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        hanging = [asyncio.create_task(_send_test(api.client, number)) for number in range(2)]
        await until(lambda: len(_entries(api)) == 2)
        refused = await _send_test(api.client, 2)
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/too-many-requests")
        assert refused.headers["retry-after"] == "1"
        assert len(_entries(api)) == 2
        async with await api.client_of("other") as other:
            hanging.append(asyncio.create_task(_send_test(other, 3)))
            await until(lambda: len(_entries(api)) == 3)
            await Post(api.objects, clock).send()
            assert {answer.status_code for answer in await asyncio.gather(*hanging)} == {200}


async def _send_test(client: httpx.AsyncClient, number: int) -> httpx.Response:
    return await client.post("/v1/webhooks/test", json={"url": f"https://{number}.example.com/hook"}, timeout=90)


def _entries(api: Api) -> list[str]:
    objects = cast(MemoryObjectStore, api.objects)
    return [key for key in objects.keys() if key.startswith(OUTBOX)]  # noqa: SIM118  it is not a dict


async def test_the_end_is_shown_after_much_progress(api: tuple[Api, Post]) -> None:
    """Superseded deliveries of progress are neither read nor shown, and cannot be repeated."""
    server, post = api
    stored, now = await post.claimed("progress", "completed"), post.clock.now()
    for number in range(3):
        details = ProgressDetails(step=f"{number}/9")
        after = stored.record.report(attempt=1, now=now, lease_s=60, progress=1, details=details, outputs=())
        stored = await post.stores.jobs.advance(stored, after)
        await post.send()
    progress = post.receiver.events()[-2:]
    await post.stores.jobs.evolve_from(stored, lambda r: r.complete(attempt=1, now=now, outputs=()))
    await post.send()
    path = f"/v1/jobs/{stored.record.job_id}/deliveries"
    shown = (await server.client.get(path)).json()["deliveries"]
    assert [delivery["type"] for delivery in shown] == ["comfyui.job.completed.v1"]
    assert (await server.client.post(f"{path}/{progress[0]['id']}/redeliver")).status_code == 404


async def test_deliveries_are_listed_in_pages(api: tuple[Api, Post]) -> None:
    """A job's deliveries are listed page by page, oldest first, and a page reads no others."""
    server, post = api
    record = await post.completed("queued", "started", "completed")
    await post.send()
    path, objects = f"/v1/jobs/{record.job_id}/deliveries", cast(MemoryObjectStore, post.objects)
    objects.requests.clear()
    first = (await server.client.get(f"{path}?limit=2")).json()
    assert objects.requests["GET"] == 3  # the record, and two deliveries
    rest = (await server.client.get(f"{path}?limit=2&cursor={first['next_cursor']}")).json()
    sequences = [delivery["sequence"] for page in (first, rest) for delivery in page["deliveries"]]
    assert (sequences, len(first["deliveries"]), rest["next_cursor"]) == ([1, 2, 3], 2, None)
    for cursor in ("x", "0", "-1", "9" * 5_000):
        refused = await server.client.get(f"{path}?cursor={cursor}")
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/bad-cursor")


@pytest.mark.parametrize("path", ["/v1/jobs/{}/deliveries", "/v1/dead-letters"])
async def test_many_attempts_are_rendered_off_the_event_loop(
    api: tuple[Api, Post], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A page of deliveries with many attempts is rendered in a thread, one with few on the event loop."""
    server, post = api
    record = await post.completed("completed")
    post.receiver.answers = [Answer(415, 5)]
    await post.send()
    threads, known = [], webhooks.delivery_view

    def view(delivery: Delivery) -> webhooks.DeliveryView:
        threads.append(threading.current_thread().name.partition("_")[0])
        return known(delivery)

    monkeypatch.setattr(webhooks, "delivery_view", view)
    few = (await server.client.get(path.format(record.job_id))).json()
    monkeypatch.setattr(webhooks, "MOST_ON_LOOP", 0)
    assert (await server.client.get(path.format(record.job_id))).json() == few
    assert threads[1:] == ["heavy"]
    assert threads[0] != "heavy"


async def test_dead_letters_are_listed_and_replayed(api: tuple[Api, Post]) -> None:
    """Dead letters are listed page by page, and all or the named letters are replayed."""
    server, post = api
    records = [await post.completed("completed") for _ in range(3)]
    post.receiver.answers = [Answer(415, 5)] * 3
    await post.send()
    page = (await server.client.get("/v1/dead-letters?limit=2")).json()
    assert len(page["dead_letters"]) == 2
    rest = (await server.client.get(f"/v1/dead-letters?limit=2&cursor={page['next_cursor']}")).json()
    assert (len(rest["dead_letters"]), rest["next_cursor"]) == (1, None)
    event_id = f"evt_{records[0].job_id}_000001"
    named = await server.client.post("/v1/dead-letters/replay", json={"event_ids": [event_id]})
    assert named.json() == {"replayed": [event_id]}
    assert len((await server.client.post("/v1/dead-letters/replay", json={})).json()["replayed"]) == 2
    await post.send()
    assert len(post.receiver.posts) == 6
    assert (await server.client.get("/v1/dead-letters")).json()["dead_letters"] == []
    assert (await server.client.get("/v1/dead-letters?cursor=x")).status_code == 422


async def test_a_replay_costs_two_writes_per_dead_letter(api: tuple[Api, Post]) -> None:
    """A replay writes an outbox entry and a record per dead letter, and does not update a healthy endpoint."""
    server, post = api
    for _ in range(5):
        await post.completed("completed")
    post.receiver.answers = [Answer(415, 5)] * 5
    await post.send()
    before = _requests(post)
    assert len((await server.client.post("/v1/dead-letters/replay", json={})).json()["replayed"]) == 5
    assert (_requests(post) - before)["PUT"] == 2 * 5


async def test_a_webhook_test_sends_a_signed_event(api: tuple[Api, Post]) -> None:
    """A webhook test gets 202 until a deliverer sends a signed event of its own type."""
    server, post = api
    response = await server.client.post("/v1/webhooks/test", json={"url": URL})
    assert (response.status_code, response.json()["status"]) == (202, "pending")
    await post.send()
    assert [event["type"] for event in post.receiver.events()] == ["comfyui.webhook.test.v1"]
    (endpoint,) = (await server.client.get("/v1/webhooks/endpoints")).json()["endpoints"]
    assert (endpoint["url"], endpoint["state"], endpoint["failures"]) == (URL, "closed", 0)
    assert (await server.client.post("/v1/webhooks/test", json={"url": "ftp://x"})).status_code == 422
    post.pass_time(days=2)
    await post.reap()
    assert not [key for key in await server.keys() if "/tests/" in key]


async def test_receivers_are_listed_while_one_is_removed(clock: ManualClock) -> None:
    """A receiver that is removed between the LIST and its GET is left out of the list."""

    class Removing(MemoryObjectStore):
        async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
            page = await super().list(prefix, after=after, limit=limit)
            if prefix == keys.endpoints_prefix("default") and page.keys:
                await self.delete(page.keys[0])
            return page

    endpoints = EndpointStore(Removing(clock), clock)
    urls = [f"https://{number}.example/" for number in range(3)]
    for url in urls:
        await endpoints.failed("default", url, disable=None, scale=1.0)
    assert len(await endpoints.all("default")) == len(urls) - 1


async def test_schemas_and_public_keys_need_no_api_key(api: tuple[Api, Post]) -> None:
    """Schemas and public keys are served without an API key, which a receiver does not have."""
    server, _ = api
    schema = (await server.client.get("/schemas/comfyui.job.completed.v1.json", headers={"authorization": ""})).json()
    assert "job_id" in schema["properties"]
    assert (await server.client.get("/schemas/nonsense.json")).status_code == 404
    assert (await server.client.get("/.well-known/webhook-keys.json")).json() == {"keys": []}


async def test_webhooks_are_refused_without_a_secret(clock: ManualClock) -> None:
    """A deployment without a secret refuses jobs with a webhook, unless they bring their own secret."""
    config = ApiConfig(api_key="test-key", signs_webhooks=False)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        document = {"workflow": BLUE, "webhook_url": URL}
        refused = await api.client.post("/v1/jobs", json=document)
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/webhooks-unsigned")
        accepted = await api.client.post("/v1/jobs", json={**document, "webhook_secret": new_secret()})
        assert accepted.status_code == 202


async def test_a_bad_webhook_secret_is_refused(api: tuple[Api, Post]) -> None:
    """A bad webhook secret is refused and not repeated in the response."""
    server, _ = api
    document = {"workflow": BLUE, "webhook_url": URL, "webhook_secret": "whsec_dG9vIHNob3J0"}
    refused = await server.client.post("/v1/jobs", json=document)
    assert (refused.status_code, refused.json()["pointer"]) == (422, "/webhook_secret")
    assert "dG9vIHNob3J0" not in refused.text


def _requests(post: Post) -> Counter[str]:
    counted: Counter[str] = post.objects.requests  # type: ignore[attr-defined]  # both stores count
    return Counter(counted)

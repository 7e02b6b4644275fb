"""An event until it is delivered or given up: attempts, circuit breakers, dead letters and replays."""

import asyncio
import gc
from collections import Counter
from collections.abc import Mapping

import pytest

from app.api.events import EventRenderer
from app.api.job_view import QUICKLY_SHOWN
from app.config import ApiConfig
from storage.jobs.index import event_ref
from storage.jobs.record import JobRecord
from storage.webhooks.deliveries import Delivery, DeliveryStore, StoredDelivery
from storage.webhooks.signing import Signer
from tests.support.post import DOWN, OK, URL, Post, Receiver
from tests.support.records import OUTPUT
from tests.support.waiting import until
from workers.webhooks.deliverer import LARGE_OF_TENANT, Deliverer, DeliveryPolicy
from workers.webhooks.post import Answer

pytestmark = pytest.mark.anyio


async def test_a_failed_delivery_is_retried(post: Post) -> None:
    """A failed delivery is retried at growing intervals with the same id and a new signature; all attempts are kept."""
    record = await post.completed("completed")
    post.receiver.answers = [DOWN, DOWN]
    await post.send()
    await post.send()
    assert len(post.receiver.posts) == 1
    for _ in range(2):
        post.pass_time(minutes=2)
        await post.send()
    assert len({headers["webhook-id"] for _, headers, _ in post.receiver.posts}) == 1
    assert len({headers["webhook-timestamp"] for _, headers, _ in post.receiver.posts}) == 3
    stored = await post.stores.deliveries.find(event_ref(record, record.events[0]))
    assert stored is not None
    assert [attempt.status for attempt in stored.record.attempts] == [503, 503, 200]
    assert (stored.record.status, stored.record.attempts[0].excerpt) == ("delivered", "down")
    assert await post.outbox_entries() == []


async def test_an_undeliverable_event_becomes_a_dead_letter(post: Post) -> None:
    """An event becomes a dead letter after all attempts, and a replay sends it with the same id."""
    record = await post.completed("completed")
    post.receiver.answers = [DOWN] * 11
    for _ in range(200):
        await post.send()
        if not await post.outbox_entries():
            break
        post.pass_time(hours=1)
    assert len(post.receiver.posts) == 11
    dead, _ = await post.stores.deliveries.dead_letters("default", limit=9, after="")
    assert [letter.ref.event_id for letter in dead] == [f"evt_{record.job_id}_000001"]
    await post.stores.endpoints.change("default", URL, lambda endpoint: endpoint.enabled())
    await post.stores.deliveries.replay(dead[0].ref)
    await post.send()
    assert len({headers["webhook-id"] for _, headers, _ in post.receiver.posts}) == 1
    assert len(post.receiver.posts) == 12
    assert await post.stores.deliveries.dead_letters("default", limit=9, after="") == ([], None)


@pytest.mark.parametrize("first", [Answer(413, 5), DOWN, OK], ids=["dead", "pending", "delivered"])
@pytest.mark.real_bucket("conditional writes in a race")
async def test_a_replay_is_not_lost_to_a_faster_deliverer(
    post: Post, monkeypatch: pytest.MonkeyPatch, first: Answer
) -> None:
    """A replay whose outbox entry is dropped before the replay's commit writes another entry."""
    record = await post.completed("completed")
    post.receiver.answers = [first]
    await post.send()
    ref, commit, raced = event_ref(record, record.events[0]), DeliveryStore._commit, list[str]()

    async def late(store: DeliveryStore, delivery: Delivery, *, etag: str | None) -> StoredDelivery:
        if not raced and (outbox_entry := delivery.outbox_entry) is not None:
            raced.append("now")
            raced.append(await post.deliverer.deliver(outbox_entry))
        return await commit(store, delivery, etag=etag)

    monkeypatch.setattr(DeliveryStore, "_commit", late)
    await post.stores.deliveries.replay(ref)
    await post.send()
    assert raced == ["now", "dropped"]
    assert [headers["webhook-id"] for _, headers, _ in post.receiver.posts] == [ref.event_id] * 2
    post.pass_time(hours=1)
    await post.send()
    assert (len(post.receiver.posts), await post.outbox_entries()) == (2, [])


async def test_an_unavailable_receiver_is_probed_by_one_event(post: Post) -> None:
    """After five consecutive failures, one event at a time probes the receiver while the others wait."""
    for _ in range(8):
        await post.completed("completed")
    post.receiver.answers = [DOWN] * 5
    deliverer = post.deliverer
    for entry in await post.outbox_entries():
        await deliverer.deliver(entry)
    assert len(post.receiver.posts) == 5
    (endpoint,) = await post.stores.endpoints.all("default")
    assert (endpoint.state, endpoint.failures) == ("open", 5)
    post.pass_time(minutes=3)
    await post.send()
    (endpoint,) = await post.stores.endpoints.all("default")
    assert endpoint.state == "closed"
    post.pass_time(hours=1)
    await post.send()
    assert await post.outbox_entries() == []
    assert len({headers["webhook-id"] for _, headers, _ in post.receiver.posts}) == 8


async def test_a_receiver_that_answers_410_gets_no_more_events(post: Post) -> None:
    """After a 410, this event and later ones become dead letters without a request."""
    await post.completed("completed")
    post.receiver.answers = [Answer(410, 5)]
    await post.send()
    await post.completed("completed")
    await post.send()
    assert len(post.receiver.posts) == 1
    dead, _ = await post.stores.deliveries.dead_letters("default", limit=9, after="")
    assert len(dead) == 2
    (endpoint,) = await post.stores.endpoints.all("default")
    assert endpoint.state == "disabled"


async def test_an_optional_handshake_precedes_the_first_event(post: Post) -> None:
    """With a configured origin, a receiver gets one CloudEvents handshake, and no event before it agrees."""
    policy = DeliveryPolicy(origin="api.example.com")
    renderer = EventRenderer(post.objects, ApiConfig(api_key=None))
    post.deliverer = Deliverer(
        post.stores, transport=post.receiver, renderer=renderer, signer=Signer((post.secret,)), policy=policy
    )
    post.receiver.wants = False
    await post.completed("completed")
    await post.send()
    assert (post.receiver.posts, post.receiver.asked) == ([], ["api.example.com"])
    post.receiver.wants = True
    post.pass_time(minutes=1)
    await post.send()
    await post.completed("completed")
    await post.send()
    assert (len(post.receiver.posts), len(post.receiver.asked)) == (2, 2)


async def test_large_events_wait_without_their_content(post: Post) -> None:
    """Of a tenant, some attempts at large events are made at once, and another tenant's is made meanwhile."""
    is_free = asyncio.Event()
    begun: Counter[str] = Counter()

    class Hanging(Receiver):
        async def post(self, tenant: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
            begun[tenant] += 1
            if tenant == "busy":
                await is_free.wait()
            return await super().post(tenant, url, headers, body)

    post.receiver = Hanging()
    receivers = [("busy", f"https://{number}.example/") for number in range(LARGE_OF_TENANT + 3)]
    for tenant, url in [*receivers, ("other", URL)]:
        stored = await post.claimed("completed", tenant=tenant, webhook_url=url)
        outputs, now = (OUTPUT,) * (QUICKLY_SHOWN + 1), post.clock.now()
        await post.stores.jobs.evolve_from(stored, lambda r: r.complete(attempt=1, now=now, outputs=outputs))  # noqa: B023
    post.deliverer = post.new_deliverer()
    sending = asyncio.create_task(post.send())
    await until(lambda: begun == {"busy": LARGE_OF_TENANT, "other": 1})
    gc.collect()
    records = [one for one in gc.get_objects() if isinstance(one, JobRecord) and one.tenant == "busy"]
    assert len(records) == LARGE_OF_TENANT
    is_free.set()
    await sending
    assert begun["busy"] == LARGE_OF_TENANT + 3

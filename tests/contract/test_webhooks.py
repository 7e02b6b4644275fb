"""From a job's change to its event at the receiver, over both stores, on a clock that the test moves."""

import contextlib
from collections import Counter
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from app.config import ApiConfig
from app.views.events import EventRenderer
from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock, SystemClock
from storage.errors import JobGone, PreconditionFailed, StorageUnavailable
from storage.hint_keys import DUE, DueEntry
from storage.jobs.hints import endpoint_of, event_ref, hints_of
from storage.jobs.record import JobRecord
from storage.jobs.values import Output, ProgressDetails
from storage.webhooks.deliveries import Delivery, DeliveryStore, StoredDelivery
from storage.webhooks.post import Answer
from storage.webhooks.signing import Signer, new_secret, tenant_secret
from tests.support.post import DOWN, OK, URL, Post
from tests.support.records import a_job
from workers.webhooks.deliverer import Deliverer, DeliveryRoom

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    """Begins now: verifiers refuse what is old."""
    return ManualClock(SystemClock().now().replace(microsecond=0))


@pytest.fixture
def post(objects: ObjectStore, clock: ManualClock) -> Post:
    return Post(objects, clock)


async def test_a_finished_job_is_told_signed_and_whole(post: Post) -> None:
    """One structured CloudEvent that is a valid Standard Webhooks message, with the job as GET shows it."""
    record = await post.completed("completed", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    await post.send()
    ((url, headers, body),) = post.receiver.posts
    event = Webhook(post.secret).verify(body, dict(headers))
    assert url == URL
    assert headers["content-type"].startswith("application/cloudevents+json")
    assert headers["webhook-id"] == event["id"] == f"evt_{record.job_id}_000001"
    assert {name: event[name] for name in ("specversion", "type", "source", "subject", "sequence", "traceparent")} == {
        "specversion": "1.0",
        "type": "comfyui.job.completed.v1",
        "source": f"https://api.example.com/v1/jobs/{record.job_id}",
        "subject": record.job_id,
        "sequence": "00000001",
        "traceparent": record.traceparent,
    }
    assert (event["data"]["job_id"], event["data"]["status"]) == (record.job_id, "completed")
    assert await post.pointers() == []
    await post.send()
    assert len(post.receiver.posts) == 1


async def test_only_wanted_events_are_told(post: Post) -> None:
    """And in the order in which things happened."""
    await post.completed()
    await post.send()
    assert sorted(post.receiver.types()) == ["completed", "queued", "started"]
    assert sorted(event["sequence"] for event in post.receiver.events()) == ["00000001", "00000002", "00000003"]
    post.receiver.posts.clear()
    await post.completed("failed")
    await post.send()
    assert post.receiver.posts == []


@pytest.mark.parametrize("end", ["cancelled", "node_error", "queue_timeout", "worker_lost", "timeout"])
async def test_every_end_is_told(post: Post, end: str) -> None:
    """Whoever ends the job: its owner, a node, the queue limit, the reaper."""
    from storage.jobs.values import ErrorDetail

    jobs = post.stores.jobs
    if end == "queue_timeout":
        await post.queued("failed", queue_timeout_s=10)
        post.pass_time(seconds=11)
        await post.reap()
    else:
        claimed = await post.claimed("failed")
        now, record = post.clock.now(), claimed.record
        if end == "node_error":
            error = ErrorDetail(code="node_error", message="it broke")
            await jobs.evolve_from(claimed, lambda r: r.fail(attempt=1, now=now, error=error))
        elif end == "cancelled":
            await jobs.evolve_from(claimed, lambda r: r.cancel(now=now))
            await jobs.evolve("default", record.job_id, lambda r: r.release(attempt=1, now=now))
        elif end == "timeout":
            post.pass_time(hours=2)
            await post.reap()
        else:
            for _ in range(2):
                post.pass_time(seconds=61)
                await post.reap()
                await post.stores.queue.claim("default", "w")
    await post.send()
    (event,) = post.receiver.events()
    assert event["type"] == "comfyui.job.failed.v1"
    assert event["data"]["error_detail"]["code"] == end


async def test_only_the_newest_progress_is_told(post: Post) -> None:
    """One that was not delivered yet is superseded, and none is told after the end."""
    claimed = await post.claimed("progress", "completed")
    now = post.clock.now()
    for percent in (10, 20, 30):
        claimed = await post.stores.jobs.evolve_from(
            claimed,
            lambda r, percent=percent: r.report(  # type: ignore[misc]  # a lambda's default
                attempt=1, now=now, lease_s=60, progress=percent, details=ProgressDetails(), outputs=()
            ),
        )
    await post.send()
    assert [event["data"]["progress"] for event in post.receiver.events()] == [30]
    assert len(await post.pointers()) == 0
    await post.stores.jobs.evolve_from(claimed, lambda r: r.complete(attempt=1, now=now, outputs=()))
    await post.send()
    assert post.receiver.types() == ["progress", "completed"]


async def test_each_output_is_told_once(post: Post) -> None:
    """Uploads end in any order, and what is sent late tells what was news then."""
    small, large = (
        Output(filename=name, type="file", node_id=name, key=name, size_bytes=1, content_type="text/plain", sha256="0")
        for name in ("small", "large")
    )
    stored, now = await post.claimed("output"), post.clock.now()
    for outputs in ((small,), (large, small)):
        after = stored.record.report(
            attempt=1, now=now, lease_s=60, progress=0, details=ProgressDetails(), outputs=outputs
        )
        stored = await post.stores.jobs.advance(stored, after)
        await post.send()
    told = [[output["filename"] for output in event["data"]["outputs"]] for event in post.receiver.events()]
    assert told == [["small"], ["large"]]
    await post.stores.jobs.evolve_from(stored, lambda r: r.complete(attempt=1, now=now, outputs=(large, small)))
    for delivery in await post.stores.deliveries.of(event_ref(stored.record, event) for event in stored.record.events):
        await post.stores.deliveries.replay(delivery.ref)
    await post.send()
    again = [[output["filename"] for output in event["data"]["outputs"]] for event in post.receiver.events()[2:]]
    assert sorted(again) == sorted(told)


async def test_a_receiver_that_fails_is_asked_again(post: Post) -> None:
    """Later and later, with the same id and a fresh signature; every attempt is kept."""
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
    assert await post.pointers() == []


async def test_what_nobody_takes_is_a_dead_letter(post: Post) -> None:
    """After the whole schedule; a replay sends it with the same id, from the start of the schedule."""
    record = await post.completed("completed")
    post.receiver.answers = [DOWN] * 11
    for _ in range(200):
        await post.send()
        if not await post.pointers():
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
async def test_a_replay_is_not_lost_to_a_deliverer_that_is_quicker(
    post: Post, monkeypatch: pytest.MonkeyPatch, first: Answer
) -> None:
    """Its pointer is found before the replay is committed, and dropped: the replay writes another one."""
    record = await post.completed("completed")
    post.receiver.answers = [first]
    await post.send()
    ref, commit, raced = event_ref(record, record.events[0]), DeliveryStore._commit, list[str]()

    async def late(store: DeliveryStore, delivery: Delivery, *, etag: str | None) -> StoredDelivery:
        if not raced and (pointer := delivery.pointer) is not None:
            raced.append("now")
            raced.append(await post.deliverer.deliver(pointer))
        return await commit(store, delivery, etag=etag)

    monkeypatch.setattr(DeliveryStore, "_commit", late)
    await post.stores.deliveries.replay(ref)
    await post.send()
    assert raced == ["now", "dropped"]
    assert [headers["webhook-id"] for _, headers, _ in post.receiver.posts] == [ref.event_id] * 2
    post.pass_time(hours=1)
    await post.send()
    assert (len(post.receiver.posts), await post.pointers()) == (2, [])


async def test_a_receiver_that_is_down_is_left_alone(post: Post) -> None:
    """After five failures in a row one event probes it, now and then; the others wait without an attempt."""
    for _ in range(8):
        await post.completed("completed")
    post.receiver.answers = [DOWN] * 5
    deliverer = post.deliverer
    for entry in await post.pointers():
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
    assert await post.pointers() == []
    assert len({headers["webhook-id"] for _, headers, _ in post.receiver.posts}) == 8


async def test_a_receiver_that_wants_no_more_gets_no_more(post: Post) -> None:
    """410: this event and those that follow are dead letters, and nobody is asked."""
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


async def test_a_job_signs_with_its_own_secret(post: Post) -> None:
    """Where it brought one; it is nowhere in the record."""
    own, now = new_secret(), post.clock.now()
    record = a_job(created_at=now, webhook_url=URL, webhook_events=("queued",), has_webhook_secret=True)
    beside = {keys.webhook_secret("default", record.job_id): own.encode()}
    await post.stores.jobs.create(record.born(), workflow=b"{}", beside=beside)
    await post.send()
    ((_, headers, body),) = post.receiver.posts
    Webhook(own).verify(body, dict(headers))
    assert own.encode() not in (await post.objects.get(keys.record("default", record.job_id))).body


async def test_each_tenants_events_have_its_own_signature(post: Post) -> None:
    """What signs one tenant's events verifies no other's."""
    secrets = {tenant: tenant_secret(post.secret, tenant) for tenant in ("default", "acme", "other")}
    for tenant in secrets:
        await post.queued("queued", tenant=tenant)
    await post.send()
    good = set()
    for _, headers, body in post.receiver.posts:
        for tenant, secret in secrets.items():
            with contextlib.suppress(WebhookVerificationError):
                Webhook(secret).verify(body, dict(headers))
                good.add((headers["webhook-id"], tenant))
    assert len(good) == 3
    assert {tenant for _, tenant in good} == set(secrets)
    assert secrets["default"] == post.secret


async def test_while_secrets_rotate_both_verify(post: Post) -> None:
    """Receivers change theirs when they like."""
    old, new = new_secret(), new_secret()
    post.deliverer = post.new_deliverer(new, old)
    await post.completed("completed")
    await post.send()
    ((_, headers, body),) = post.receiver.posts
    for secret in (old, new):
        Webhook(secret).verify(body, dict(headers))


async def test_a_receiver_is_asked_first_where_that_is_wanted(post: Post) -> None:
    """Once, as the CloudEvents webhook specification has it; until it agrees nothing is sent."""
    room = DeliveryRoom(
        post.stores.outbox,
        post.stores.deliveries,
        post.stores.endpoints,
        post.objects,
        post.clock,
        origin="api.example.com",
    )
    renderer = EventRenderer(post.objects, ApiConfig(api_key=None))
    post.deliverer = Deliverer(room, transport=post.receiver, renderer=renderer, signer=Signer((post.secret,)))
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


async def test_two_deliverers_send_one_attempt(post: Post) -> None:
    """The second one finds a lease; when it has ended without a result, the event is sent again."""
    await post.completed("completed")
    (entry,) = await post.pointers()
    held = await post.stores.outbox.find(entry)
    assert not isinstance(held, str)
    await post.deliverer._hold(entry, held)
    assert await post.deliverer.deliver(entry) == "later"
    assert post.receiver.posts == []
    post.pass_time(seconds=91)
    assert await post.deliverer.deliver(entry) == "delivered"


async def test_a_pointer_before_its_commit_waits(post: Post) -> None:
    """It is written first; once its time is over a touch fences the writer, and it goes."""
    record = (await post.claimed("completed")).record
    event = _event(record)
    ahead = DueEntry(post.clock.now(), endpoint_of(URL), event_ref(record, event), event.rev)
    await post.objects.put(ahead.key, b"")
    assert await post.deliverer.deliver(ahead) == "later"
    before = await post.stores.jobs.read("default", record.job_id)
    post.pass_time(minutes=11)
    assert await post.deliverer.deliver(ahead) == "dropped"
    with pytest.raises(PreconditionFailed):
        await post.stores.jobs.advance(before, before.record)
    assert post.receiver.posts == []


async def test_an_event_costs_four_requests(post: Post) -> None:
    """The job, a lease, the result, the pointer's end; a receiver that is known to be well is not looked up."""
    await post.completed("completed")
    await post.send()
    await post.completed("completed")
    (entry,) = await post.pointers()
    before = _requests(post)
    assert await post.deliverer.deliver(entry) == "delivered"
    assert _requests(post) - before == Counter({"GET": 1, "PUT": 2, "DELETE": 1})


def _requests(post: Post) -> Counter[str]:
    counted: Counter[str] = post.objects.requests  # type: ignore[attr-defined]  # both stores count
    return Counter(counted)


async def test_a_pointer_is_kept_that_comes_a_moment_early(post: Post) -> None:
    """Its key tells milliseconds: by its own clock the delivery may be due a little later than its pointer."""
    await post.completed("completed")
    post.receiver.answers = [DOWN]
    await post.send()
    (entry,) = await post.pointers()
    post.clock.set(entry.due)
    assert await post.deliverer.deliver(entry) == "delivered"


async def test_a_stale_pointer_shares_no_key_with_a_second_try(post: Post) -> None:
    """A writer that was fenced commits again: whoever still deletes the pointer of its first try does not hit it."""
    before = await post.claimed("completed")

    def completed(record: JobRecord) -> JobRecord:
        return record.complete(attempt=1, now=post.clock.now(), outputs=())

    touched = await post.stores.jobs.touch(before)
    first, second = (
        {key for key in hints_of(completed(record)) if key.startswith(DUE)}
        for record in (before.record, touched.record)
    )
    assert len(first) == len(second) == 1
    assert first.isdisjoint(second)


def _event(record: JobRecord) -> Any:
    return record.complete(attempt=1, now=record.created_at, outputs=()).events[-1]


async def test_a_job_stays_until_its_events_are_delivered(post: Post) -> None:
    """Its retention is over, and its receiver is still down."""
    record = await post.completed("completed", retain_s=60)
    post.receiver.answers = [DOWN]
    await post.send()
    post.pass_time(seconds=61)
    await post.reap()
    assert (await post.stores.jobs.read("default", record.job_id)).record == record
    await post.send()
    post.pass_time(minutes=11)
    await post.reap()
    with pytest.raises(JobGone):
        await post.stores.jobs.read("default", record.job_id)


async def test_a_bucket_that_fails_costs_no_event(clock: ManualClock) -> None:
    """The result could not be written: the event is sent again, with the same id."""

    class Forgetful(MemoryObjectStore):
        failing = False

        async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
            if self.failing and "/deliveries/" in key:
                raise StorageUnavailable("away")
            return await super().replace(key, body, etag=etag, content_type=content_type)

    objects = Forgetful(clock)
    post = Post(objects, clock)
    await post.completed("completed")
    objects.failing = True
    await post.send()
    objects.failing = False
    post.pass_time(minutes=2)
    await post.send()
    assert len({headers["webhook-id"] for _, headers, _ in post.receiver.posts}) == 1
    assert len(post.receiver.posts) == 2
    assert await post.pointers() == []

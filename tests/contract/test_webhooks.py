"""From a job's change to its event at the receiver, on both stores and a clock that the test controls."""

import contextlib
from collections import Counter

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from storage import keys
from storage.clock import ManualClock, SystemClock
from storage.errors import JobGone
from storage.jobs.index import event_ref
from storage.jobs.models import Output, ProgressDetails
from storage.webhooks.signing import new_secret, tenant_secret
from tests.support.post import DOWN, URL, Post
from tests.support.records import a_job

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    """A clock that begins now, because verifiers refuse old timestamps."""
    return ManualClock(SystemClock().now().replace(microsecond=0))


@pytest.mark.real_bucket("URLs of outputs that a receiver opens")
async def test_a_finished_job_sends_a_signed_event(post: Post) -> None:
    """The event is a structured CloudEvent and a valid Standard Webhooks message, with the job as GET shows it."""
    warning = {"class_type": "SaveImage", "dependent_outputs": ["9"], "errors": [], "detail": "no", "hint": ""}
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    record = await post.completed("completed", traceparent=trace, warnings={"9": warning})
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
    assert event["data"]["warnings"] == {"9": warning}
    assert await post.outbox_entries() == []
    await post.send()
    assert len(post.receiver.posts) == 1


async def test_only_selected_events_are_sent(post: Post) -> None:
    """Only selected events are sent, with sequence numbers in the order of the changes."""
    await post.completed()
    await post.send()
    assert sorted(post.receiver.types()) == ["completed", "queued", "started"]
    assert sorted(event["sequence"] for event in post.receiver.events()) == ["00000001", "00000002", "00000003"]
    post.receiver.posts.clear()
    await post.completed("failed")
    await post.send()
    assert post.receiver.posts == []


@pytest.mark.parametrize("end", ["cancelled", "node_error", "queue_timeout", "worker_lost", "timeout"])
async def test_every_end_sends_an_event(post: Post, end: str) -> None:
    """A job that its owner, a node, its queue limit or the reaper ends sends an event."""
    from storage.jobs.models import ErrorDetail

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


async def test_only_the_latest_progress_is_sent(post: Post) -> None:
    """Undelivered progress is superseded by later progress, and none is sent after the end."""
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
    assert len(await post.outbox_entries()) == 0
    await post.stores.jobs.evolve_from(claimed, lambda r: r.complete(attempt=1, now=now, outputs=()))
    await post.send()
    assert post.receiver.types() == ["progress", "completed"]


async def test_each_output_is_sent_once(post: Post) -> None:
    """Each output event contains only new outputs, in any order of uploads, and even in a replay."""
    small, large = (
        Output(
            filename=name,
            type="file",
            node_id=name,
            key=f"tenants/default/jobs/x/outputs/001/{number:04d}/{name}",
            size_bytes=1,
            content_type="text/plain",
            sha256="0",
        )
        for number, name in enumerate(("small", "large"))
    )
    stored, now = await post.claimed("output"), post.clock.now()
    for outputs in ((small,), (large, small)):
        after = stored.record.report(
            attempt=1, now=now, lease_s=60, progress=0, details=ProgressDetails(), outputs=outputs
        )
        stored = await post.stores.jobs.advance(stored, after)
        await post.send()
    sent = [[output["filename"] for output in event["data"]["outputs"]] for event in post.receiver.events()]
    assert sent == [["small"], ["large"]]
    await post.stores.jobs.evolve_from(stored, lambda r: r.complete(attempt=1, now=now, outputs=(large, small)))
    for delivery in await post.stores.deliveries.of(event_ref(stored.record, event) for event in stored.record.events):
        await post.stores.deliveries.replay(delivery.ref)
    await post.send()
    again = [[output["filename"] for output in event["data"]["outputs"]] for event in post.receiver.events()[2:]]
    assert sorted(again) == sorted(sent)


async def test_a_job_signs_with_its_own_secret(post: Post) -> None:
    """The events of a job with its own secret are signed with it, and the record does not contain it."""
    own, now = new_secret(), post.clock.now()
    record = a_job(created_at=now, webhook_url=URL, webhook_events=("queued",), has_webhook_secret=True)
    secret_files = {keys.webhook_secret("default", record.job_id): own.encode()}
    await post.stores.jobs.create(record.initial(), workflow=b"{}", extras=secret_files)
    await post.send()
    ((_, headers, body),) = post.receiver.posts
    Webhook(own).verify(body, dict(headers))
    assert own.encode() not in (await post.objects.get(keys.record("default", record.job_id))).body


async def test_each_tenants_events_are_signed_with_its_own_secret(post: Post) -> None:
    """The secret of one tenant verifies no events of another tenant."""
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


async def test_both_secrets_verify_during_a_rotation(post: Post) -> None:
    """During a rotation of secrets, events can be verified with the old and the new secret."""
    old, new = new_secret(), new_secret()
    post.deliverer = post.new_deliverer(new, old)
    await post.completed("completed")
    await post.send()
    ((_, headers, body),) = post.receiver.posts
    for secret in (old, new):
        Webhook(secret).verify(body, dict(headers))


async def test_an_event_costs_four_requests(post: Post) -> None:
    """A delivery reads the job, writes lease and result and deletes the outbox entry; it does not read the endpoint."""
    await post.completed("completed")
    await post.send()
    await post.completed("completed")
    (entry,) = await post.outbox_entries()
    before = _requests(post)
    assert await post.deliverer.deliver(entry) == "delivered"
    assert _requests(post) - before == Counter({"GET": 1, "PUT": 2, "DELETE": 1})


def _requests(post: Post) -> Counter[str]:
    counted: Counter[str] = post.objects.requests  # type: ignore[attr-defined]  # both stores count
    return Counter(counted)


async def test_a_job_is_kept_until_its_events_are_delivered(post: Post) -> None:
    """A job is kept beyond its retention while its event is undelivered, and is then removed."""
    record = await post.completed("completed", retain_s=60)
    post.receiver.answers = [DOWN]
    await post.send()
    post.pass_time(seconds=61)
    await post.reap()
    assert (await post.stores.jobs.read("default", record.job_id)).record.status is record.status
    await post.send()
    post.pass_time(minutes=11)
    await post.reap()
    with pytest.raises(JobGone):
        await post.stores.jobs.read("default", record.job_id)

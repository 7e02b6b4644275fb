"""A bucket that does not find an object which it lists: nothing that could not be undone follows from it."""

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from blake3 import blake3

from storage import keys
from storage.assets import Reference
from storage.batch_record import BatchRecord, member_id
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import StoredObject
from storage.clock import ManualClock
from storage.errors import AttemptFenced, JobGone, ObjectNotFound, StorageUnavailable
from storage.index_keys import BATCHES, OUTBOX, QUEUE, list_prefix
from storage.intake.media_check import MediaCheck, MediaLimits
from storage.jobs.index import queue_key
from storage.jobs.models import InputFile
from storage.jobs.record import Status
from storage.signal import MemorySignal
from storage.timers import Timer
from storage.webhooks.signing import new_secret
from tests.support.api_server import PNG
from tests.support.post import URL, Post
from tests.support.records import a_job
from tests.support.shop import Shop
from workers.preparation import fetch_inputs
from workers.reporter import Reporter, ReportPolicy

pytestmark = pytest.mark.anyio

BATCH_ID = "0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10"


class Forgetful(MemoryObjectStore):
    """Does not find the object of a key in `hidden` for so many reads."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.hidden = Counter[str]()

    async def get(self, key: str) -> StoredObject:
        self._check(key)
        return await super().get(key)

    async def download_file(self, key: str, path: Path) -> None:
        self._check(key)
        await super().download_file(key, path)

    def _check(self, key: str) -> None:
        if self.hidden[key] > 0:
            self.hidden[key] -= 1
            raise ObjectNotFound(key)


@pytest.fixture
def objects(clock: ManualClock) -> Forgetful:
    return Forgetful(clock)


@pytest.fixture
def shop(objects: Forgetful, clock: ManualClock) -> Shop:
    return Shop(objects, clock)


async def test_a_queued_job_keeps_its_queue_key(shop: Shop, objects: Forgetful) -> None:
    """Neither the reaper nor a worker deletes the queue key of a job whose record is listed."""
    job = await shop.queued()
    shop.pass_time(minutes=11)
    objects.hidden[keys.record(job.tenant, job.job_id)] = 2
    await shop.reaper.sweep()
    assert await shop.queue.claim("default", "w") is None
    assert await shop.keys(QUEUE) == (queue_key(job),)
    assert (await shop.claim()).job_id == job.job_id


async def test_a_job_keeps_its_upload(shop: Shop, objects: Forgetful) -> None:
    """The bytes of an upload are kept while the record of a job that uses them is listed."""
    uploads = shop.stores.uploads
    upload, _, _ = await uploads.create("default", size_bytes=3, content_type="image/png", filename=None)
    await objects.put(upload.key, b"png")
    shop.pass_time(days=6)
    record = a_job(created_at=shop.clock.now())
    await uploads.use("default", upload.upload_id, record.job_id)
    await shop.jobs.create(record, workflow=b"{}")
    shop.pass_time(days=1, hours=1)
    objects.hidden[keys.record("default", record.job_id)] = 3  # for the timers of both, and the queue key
    await shop.reaper.sweep()
    assert (objects.hidden.total(), (await objects.get(upload.key)).body) == (0, b"png")


async def test_a_job_keeps_its_timer(shop: Shop, objects: Forgetful) -> None:
    """A lost worker is noticed at the next sweep after one that did not find the record."""
    job = await shop.claimed()
    shop.pass_time(minutes=12)
    objects.hidden[keys.record(job.tenant, job.job_id)] = 1
    await shop.reaper.sweep()
    assert (await shop.read(job)).status is Status.RUNNING
    await shop.reaper.sweep()
    assert (await shop.read(job)).status is Status.QUEUED


async def test_an_asset_keeps_its_bytes_and_its_timer(shop: Shop, objects: Forgetful, tmp_path: Path) -> None:
    """The bytes of an asset are kept while its record is listed, and they still go with it in the end."""
    (tmp_path / "f").write_bytes(PNG)
    wanted = Reference(blake3(PNG).hexdigest(), "a.png")
    asset = await shop.stores.assets.add(
        "default", wanted, tmp_path / "f", size_bytes=len(PNG), content_type="image/png"
    )
    objects.hidden[keys.asset("default", asset.asset_id)] = 2
    shop.pass_time(days=7, hours=1)
    await shop.reaper.sweep()
    assert (objects.hidden.total(), (await objects.get(asset.key)).body) == (0, PNG)
    for _ in range(8):
        shop.pass_time(hours=1)
        await shop.reaper.sweep()
    assert await shop.keys() == ()


async def test_an_input_file_is_read_again(objects: Forgetful, tmp_path: Path) -> None:
    """A worker repeats the download of an input file that is listed, instead of failing the job."""
    await objects.put("a", PNG)
    objects.hidden["a"] = 1
    file = InputFile(name="a.png", key="a", size_bytes=len(PNG), content_type="image/png")
    ((_, path),) = await fetch_inputs((file,), objects, tmp_path, MediaCheck(), MediaLimits())
    assert path.read_bytes() == PNG


async def test_a_worker_waits_for_the_parts_of_a_job(shop: Shop, objects: Forgetful) -> None:
    """A part of a job that is listed is unavailable, for which a worker waits, and not missing, which fails the job."""
    job = await shop.queued(has_values=True)
    await objects.put(keys.values(job.tenant, job.job_id), b"[]")
    await objects.put(keys.partner_key(job.tenant, job.job_id), b"sealed")
    for part in (keys.workflow, keys.values, keys.partner_key):
        objects.hidden[part(job.tenant, job.job_id)] = 1
    with pytest.raises(StorageUnavailable):
        await shop.jobs.workflow(job.tenant, job.job_id)
    with pytest.raises(StorageUnavailable):
        await shop.jobs.inputs(job)
    with pytest.raises(StorageUnavailable):
        await shop.stores.partner_keys.read(job.tenant, job.job_id)
    assert (await shop.jobs.workflow(job.tenant, job.job_id), await shop.jobs.inputs(job)) == (b"{}", ())


async def test_an_event_is_delivered_later(objects: Forgetful, clock: ManualClock) -> None:
    """An event is neither dropped nor given up while its job, and the secret that signs it, are listed."""
    post = Post(objects, clock)
    record = a_job(
        created_at=clock.now(), webhook_url=URL, webhook_events=("queued",), has_webhook_secret=True
    ).initial()
    secret = keys.webhook_secret("default", record.job_id)
    await post.stores.jobs.create(record, workflow=b"{}", extras={secret: new_secret().encode()})
    post.pass_time(minutes=11)
    objects.hidden[keys.record("default", record.job_id)] = 1
    objects.hidden[secret] = 1
    for hidden in (1, 0):
        await post.send()
        assert (objects.hidden.total(), post.receiver.posts) == (hidden, [])
        assert (await objects.list(OUTBOX)).keys
    post.pass_time(minutes=2)  # the deliverer's lease
    await post.send()
    assert post.receiver.types() == ["queued"]


async def test_a_job_of_a_batch_is_not_taken_for_a_removed_one(shop: Shop, objects: Forgetful) -> None:
    """A batch whose job is listed and not found neither ends nor leaves that job unpublished."""
    batches, now = shop.stores.batches, shop.clock.now()
    job_id = member_id(BATCH_ID, 0)
    record = BatchRecord(tenant="default", batch_id=BATCH_ID, job_ids=(job_id,), created_at=now, webhook_url=URL)
    draft = await batches.draft(record)
    job = a_job(job_id=job_id, batch_id=BATCH_ID, is_batch_reported=True, created_at=now)
    await shop.jobs.create_unpublished(job, workflow=b"{}")
    with pytest.raises(ValueError, match="not usable"):  # its process ends before it publishes the job
        await batches.accept(draft, [job.model_copy(update={"tenant": "no/tenant"})])
    objects.hidden[keys.record("default", job_id)] = 3
    with pytest.raises(StorageUnavailable):
        await batches.statuses(record)
    while objects.hidden.total():
        shop.pass_time(minutes=2)
        await shop.reaper.sweep()
        assert (await batches.read("default", BATCH_ID)).record.finished_at is None
    shop.pass_time(minutes=2)
    await shop.reaper.sweep()
    assert (await shop.claim()).job_id == job_id


@pytest.mark.parametrize(("is_removed", "was_heard"), [(False, "cancel"), (True, "fence")])
async def test_a_running_attempt_goes_on(shop: Shop, objects: Forgetful, is_removed: bool, was_heard: str) -> None:
    """An attempt is given up once neither a read nor a LIST finds its record; otherwise the next read decides."""
    claimed = await shop.claimed()
    key, heard = keys.record(claimed.tenant, claimed.job_id), asyncio.Queue[str]()
    stored = await shop.jobs.read(claimed.tenant, claimed.job_id)
    reporter = Reporter(
        shop.jobs,
        stored,
        shop.clock,
        ReportPolicy(interval_s=0.01, cancel_poll_s=0.01, lease_s=3600),
        observe=lambda: None,
        on_stop=lambda _: heard.put_nowait("cancel"),
        on_fenced=lambda: heard.put_nowait("fence"),
    )
    await shop.jobs.evolve(claimed.tenant, claimed.job_id, lambda record: record.cancel(now=shop.clock.now()))
    if is_removed:
        await objects.delete(key)
    objects.hidden[key] = 1
    running = asyncio.create_task(reporter.run(MemorySignal()))
    async with asyncio.timeout(20):
        assert await heard.get() == was_heard
        reporter.stop()
        with suppress(AttemptFenced):
            await running
    assert (objects.hidden.total(), reporter.is_fenced) == (0, is_removed)


async def test_a_listed_job_keeps_its_index_key(shop: Shop, objects: Forgetful) -> None:
    """A page leaves out a job that it does not find, and the next page has it."""
    job = await shop.queued()
    shop.pass_time(minutes=11)
    objects.hidden[keys.record(job.tenant, job.job_id)] = 1
    pages = [await shop.jobs.page(job.tenant, lambda record: record.job_id, limit=10, cursor=None) for _ in range(2)]
    assert [page.rows for page in pages] == [(), (job.job_id,)]
    assert await shop.keys(list_prefix(job.tenant, None))


async def test_a_listed_batch_keeps_its_index_key(shop: Shop, objects: Forgetful) -> None:
    """A page leaves out a batch that it does not find, and the next page has it."""
    batches, now = shop.stores.batches, shop.clock.now()
    record = BatchRecord(tenant="default", batch_id=BATCH_ID, job_ids=(), created_at=now)
    await batches.accept(await batches.draft(record), [])
    shop.pass_time(hours=26)
    objects.hidden[keys.batch("default", BATCH_ID)] = 1
    pages = [await shop.stores.batch_pages.page("default", limit=10, cursor=None) for _ in range(2)]
    assert [[row.record.batch_id for row in page.rows] for page in pages] == [[], [BATCH_ID]]
    assert await shop.keys(list_prefix("default", BATCHES))


async def test_a_dead_letter_is_kept(objects: Forgetful, clock: ManualClock) -> None:
    """A page leaves out a dead letter whose delivery it does not find, and the next page has it."""
    post = Post(objects, clock)
    deliveries = post.stores.deliveries
    ref = await deliveries.test("default", URL, BATCH_ID)
    await deliveries.change(ref, lambda delivery: delivery.died(None, "down", clock.now()))
    post.pass_time(minutes=11)
    objects.hidden[keys.delivery("default", "test", BATCH_ID, 1)] = 1
    pages = [await deliveries.dead_letters("default", limit=10, after="") for _ in range(2)]
    assert [[letter.owner_id for letter in letters] for letters, _ in pages] == [[], [BATCH_ID]]


async def test_a_test_event_is_delivered_later(objects: Forgetful, clock: ManualClock) -> None:
    """The outbox entry of a test event is kept while its delivery is listed."""
    post = Post(objects, clock)
    await post.stores.deliveries.test("default", URL, BATCH_ID)
    post.pass_time(minutes=11)
    objects.hidden[keys.delivery("default", "test", BATCH_ID, 1)] = 1
    await post.send()
    assert (objects.hidden.total(), len(post.receiver.posts), len(await post.outbox_entries())) == (0, 0, 1)
    await post.send()
    assert (len(post.receiver.posts), await post.outbox_entries()) == (1, [])


async def test_a_young_entry_costs_no_second_look(objects: Forgetful, clock: ManualClock) -> None:
    """No LIST follows a read that does not find the owner of an outbox entry that may precede its commit."""
    post = Post(objects, clock)
    await post.queued("queued")
    await post.stores.deliveries.test("default", URL, BATCH_ID)
    entries = await post.outbox_entries()
    await objects.delete(*(await objects.list("tenants/")).keys)
    objects.requests.clear()
    assert [await post.stores.outbox.find(entry) for entry in entries] == ["later"] * 2
    assert objects.requests == {"GET": 2}
    post.pass_time(minutes=11)
    assert [await post.stores.outbox.find(entry) for entry in entries] == ["never"] * 2
    assert objects.requests == {"GET": 4, "LIST": 2}


async def test_a_claim_and_a_receiver_keep_their_timers(shop: Shop, objects: Forgetful) -> None:
    """Claims of idempotency keys and receivers are kept forever without their timers, so these go after them."""
    await shop.stores.idempotency.claim("default", "jobs", "key", "fingerprint")
    await shop.stores.endpoints.failed("default", URL, disable=None, scale=1)
    shop.pass_time(days=31)
    kept = await shop.keys("tenants/")
    objects.hidden.update(kept)
    await shop.reaper.sweep()
    assert (objects.hidden.total(), await shop.keys("tenants/")) == (0, kept)
    for _ in range(2):
        await shop.reaper.sweep()
    assert await shop.keys() == ()


async def test_a_tombstone_keeps_its_timer(shop: Shop, objects: Forgetful) -> None:
    """What a removed job has left is not forgotten while its tombstone is listed."""
    stored = await shop.completed()
    await shop.stores.remover.purge(stored)
    (timer,) = [Timer.parse(key) for key in await shop.keys("timers/")]
    objects.hidden[keys.record(timer.tenant, timer.id)] = 1
    with pytest.raises(StorageUnavailable):
        await shop.stores.remover.collect_garbage(timer)
    assert await shop.stores.remover.collect_garbage(timer) == timer


async def test_a_job_of_an_abandoned_batch_is_removed(shop: Shop, objects: Forgetful) -> None:
    """A draft is kept until each of its jobs was found and removed, since only the draft names them."""
    now, job_id = shop.clock.now(), member_id(BATCH_ID, 0)
    await shop.stores.batches.draft(BatchRecord(tenant="default", batch_id=BATCH_ID, job_ids=(job_id,), created_at=now))
    job = a_job(job_id=job_id, batch_id=BATCH_ID, created_at=now)
    await shop.jobs.create_unpublished(job, workflow=b"{}")
    shop.pass_time(hours=26)
    objects.hidden[keys.record("default", job_id)] = 1
    for _ in range(2):
        await shop.reaper.sweep()
        shop.pass_time(hours=1)
    assert objects.hidden.total() == 0
    with pytest.raises(JobGone):
        await shop.jobs.read("default", job_id)

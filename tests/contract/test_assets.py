"""Assets: found by id, hash and name; kept while used; collected with the last one that has their bytes."""

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest
from blake3 import blake3

from storage import keys
from storage.assets import Asset, Reference
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.errors import AssetInUse, AssetNotFound, StorageUnavailable
from storage.jobs.models import Output
from storage.jobs.output_ids import OutputId
from tests.support.records import a_job
from tests.support.shop import Shop
from tests.support.stepped_bucket import SteppedBucket

pytestmark = pytest.mark.anyio

BYTES = b"\x89PNG\r\n\x1a\nsome bytes"
HASH = blake3(BYTES).hexdigest()
HOUR = timedelta(hours=1)


@pytest.fixture
def shop(objects: ObjectStore, clock: ManualClock) -> Shop:
    return Shop(objects, clock)


@pytest.fixture
def memory_shop(clock: ManualClock) -> Shop:
    return Shop(MemoryObjectStore(clock), clock)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(BYTES)
    return path


def named(file_path: str | None, lifetime: timedelta | None = None) -> Reference:
    return Reference(HASH, file_path, lifetime=lifetime)


async def added(shop: Shop, file: Path, name: str = "a.png", lifetime: timedelta | None = None) -> Asset:
    wanted = named(name, lifetime)
    return await shop.stores.assets.add("default", wanted, file, size_bytes=len(BYTES), content_type="image/png")


async def in_time(shop: Shop, **span: float) -> None:
    """Let time pass, in steps in which every due timer is handled."""
    shop.pass_time(**span)
    for _ in range(4):
        await shop.reaper.sweep()
        shop.pass_time(minutes=30)


@pytest.mark.real_bucket("bytes that are stored once for several assets")
async def test_an_asset_is_found_by_id_hash_and_name(shop: Shop, file: Path) -> None:
    """An asset is found by its id, its hash and its name, in its tenant alone, until it expires."""
    assets = shop.stores.assets
    made = await added(shop, file, "photos/größe 1.png", lifetime=HOUR)
    assert await assets.find("default", made.asset_id) == made
    assert await assets.with_hash("default", HASH) == made
    assert await assets.named("default", "photos/größe 1.png") == made
    assert (await shop.objects.get(made.key)).body == BYTES
    assert await assets.with_hash("other", HASH) is None
    assert await assets.named("other", "photos/größe 1.png") is None
    assert await assets.refer("other", named("a.png")) is None
    for tenant, asset_id in (("other", made.asset_id), ("default", "unknown"), ("default", "../x"), ("default", "a.b")):
        with pytest.raises(AssetNotFound):
            await assets.find(tenant, asset_id)
    shop.pass_time(hours=1)
    assert await assets.with_hash("default", HASH) is None
    assert await assets.named("default", "photos/größe 1.png") is None
    with pytest.raises(AssetNotFound):
        await assets.find("default", made.asset_id)


async def test_the_same_bytes_are_stored_once(memory_shop: Shop, file: Path) -> None:
    """Assets of the same bytes share them, and the same bytes under the same name are the same asset."""
    shop, assets = memory_shop, memory_shop.stores.assets
    first = await added(shop, file)
    assert await assets.refer("default", named("a.png")) == (first, False)
    assert await assets.refer("default", named(None)) == (first, False)
    second = await assets.refer("default", named("b.png"))
    assert second is not None
    assert second[1]
    assert (second[0].key, second[0].size_bytes, second[0].content_type) == (first.key, len(BYTES), "image/png")
    assert second[0].asset_id != first.asset_id
    assert len([key for key in await shop.keys() if key.endswith("/data")]) == 1


async def test_the_newest_asset_of_a_name_wins(memory_shop: Shop, file: Path) -> None:
    """Of two assets with one name the newer is found by it, and the older once that is gone."""
    shop, assets = memory_shop, memory_shop.stores.assets
    old = await added(shop, file)
    shop.pass_time(seconds=1)
    other = Reference("0" * 64, "a.png")
    new = await assets.add("default", other, file, size_bytes=len(BYTES), content_type="image/png")
    assert await assets.named("default", "a.png") == new
    await assets.delete("default", new.asset_id)
    assert await assets.named("default", "a.png") == old


async def test_a_hit_extends_an_asset_and_never_shortens_it(memory_shop: Shop, file: Path) -> None:
    """Bytes that are referred to again live for as long as the longest of the references."""
    shop, assets = memory_shop, memory_shop.stores.assets
    made = await added(shop, file, lifetime=HOUR)
    for lifetime, expected in ((timedelta(minutes=1), HOUR), (2 * HOUR, 2 * HOUR)):
        found = await assets.refer("default", named("a.png", lifetime))
        assert found is not None
        assert (found[0].asset_id, found[1]) == (made.asset_id, False)
        assert found[0].expires_at == made.created_at + expected
    await in_time(shop, minutes=90)
    assert await shop.keys(keys.asset_prefix("default", made.asset_id)) == ()


@pytest.mark.real_bucket("bytes that are collected with their last asset")
async def test_the_bytes_go_with_the_last_asset(shop: Shop, file: Path) -> None:
    """Bytes are kept for as long as an asset has them, and nothing of either is left afterwards."""
    assets = shop.stores.assets
    first = await added(shop, file)
    second = await assets.refer("default", named("b.png"))
    assert second is not None
    await assets.delete("default", first.asset_id)
    with pytest.raises(AssetNotFound):
        await assets.delete("default", first.asset_id)
    await in_time(shop, hours=3)
    assert (await shop.objects.get(second[0].key)).body == BYTES
    await assets.delete("default", second[0].asset_id)
    assert await assets.with_hash("default", HASH) is None
    await in_time(shop, hours=2)
    assert await shop.keys("tenants/") == ()


async def test_expired_assets_leave_nothing(memory_shop: Shop, file: Path) -> None:
    """After their time, the reaper leaves neither assets nor bytes nor timers."""
    shop = memory_shop
    await added(shop, file, lifetime=timedelta(minutes=1))
    await added(shop, file, "b.png")
    await in_time(shop, days=7)
    await in_time(shop, hours=3)
    assert await shop.keys() == ()


async def test_an_asset_is_kept_while_a_job_uses_it(memory_shop: Shop, file: Path) -> None:
    """An asset that a job uses cannot be deleted, and its bytes outlive its time until the job has ended."""
    shop, assets = memory_shop, memory_shop.stores.assets
    made = await added(shop, file, lifetime=HOUR)
    job = a_job(created_at=shop.clock.now())
    await assets.use("default", made.asset_id, job.job_id)
    await shop.jobs.create(job, workflow=b"{}")
    with pytest.raises(AssetInUse):
        await assets.delete("default", made.asset_id)
    await in_time(shop, hours=9)
    with pytest.raises(AssetNotFound):
        await assets.find("default", made.asset_id)
    assert (await shop.objects.get(made.key)).body == BYTES
    now = shop.clock.now()
    await shop.jobs.evolve("default", job.job_id, lambda record: record.cancel(now=now))
    await in_time(shop, hours=7)
    await in_time(shop, hours=7)
    assert await shop.keys(keys.upload_prefix("default", made.key.split("/")[3])) == ()


async def test_a_job_keeps_an_asset_that_is_deleted_while_it_is_submitted(memory_shop: Shop, file: Path) -> None:
    """An asset that is deleted between the check and the commit of a job keeps its bytes until that job has ended."""
    shop, assets = memory_shop, memory_shop.stores.assets
    made = await added(shop, file)
    found = await assets.find("default", made.asset_id)
    job = a_job(created_at=shop.clock.now())
    await assets.delete("default", made.asset_id)
    await assets.use("default", made.asset_id, job.job_id)
    await shop.jobs.create(job, workflow=b"{}")
    await in_time(shop, hours=5)
    assert (await shop.objects.get(found.key)).body == BYTES


@pytest.mark.parametrize("step", range(1, 12))
async def test_bytes_that_are_referred_to_while_their_asset_is_deleted_are_kept(
    clock: ManualClock, file: Path, step: int
) -> None:
    """A reference to bytes whose only asset is deleted meanwhile either finds nothing or keeps the bytes."""
    bucket = SteppedBucket(clock)
    shop = Shop(bucket, clock)
    first = await added(shop, file)

    async def deletion() -> None:
        await shop.stores.assets.delete("default", first.asset_id)

    bucket.at(step, deletion)
    found = await shop.stores.assets.refer("default", named("b.png"))
    if not bucket.has_happened:
        bucket.disarm()
        await deletion()
    await in_time(shop, hours=3)
    if found is not None:
        assert (await bucket.get(found[0].key)).body == BYTES
        await shop.stores.assets.delete("default", found[0].asset_id)
    await in_time(shop, hours=3)
    await in_time(shop, days=7)
    assert await shop.keys() == ()


async def test_a_reference_that_was_paused_fails(clock: ManualClock, file: Path) -> None:
    """A process that was paused while it referred to bytes does not answer with an asset without bytes."""
    bucket = SteppedBucket(clock)
    shop = Shop(bucket, clock)
    first = await added(shop, file)

    async def pause() -> None:
        await shop.stores.assets.delete("default", first.asset_id)
        await in_time(shop, hours=3)

    bucket.at(4, pause)
    with pytest.raises(StorageUnavailable):
        await shop.stores.assets.refer("default", named("b.png"))
    assert bucket.has_happened
    await in_time(shop, days=8)
    assert await shop.keys() == ()


class Killed(BaseException):
    """kill -9."""


@pytest.mark.parametrize("fault", [Killed, StorageUnavailable])
@pytest.mark.parametrize("after", [False, True])
async def test_a_fault_at_any_request_leaves_nothing_for_ever(
    clock: ManualClock, file: Path, fault: type[BaseException], *, after: bool
) -> None:
    """An API or a reaper that dies at any request leaves nothing that later sweeps do not remove; answers stay true."""

    async def die() -> None:
        raise fault

    for course in (_upload, _refer, _delete, _sweep):
        for step in range(1, 40):
            bucket = SteppedBucket(clock)
            shop = Shop(bucket, clock)
            made = None if course is _upload else await added(shop, file, lifetime=HOUR)
            bucket.at(step, die, after=after)
            with contextlib.suppress(fault):
                await course(shop, file, made)
            is_over = not bucket.has_happened
            bucket.disarm()
            if course in (_upload, _refer):
                # What the client was answered is not known here, so the request is repeated.
                await course(shop, file, made)
                known = await shop.stores.assets.with_hash("default", HASH)
                assert known is not None
                assert (await bucket.get(known.key)).body == BYTES
            await in_time(shop, days=8)
            await in_time(shop, days=1)
            assert await shop.keys() == (), (course.__name__, step)
            if is_over:
                break
        else:
            pytest.fail("more requests than steps")


async def _upload(shop: Shop, file: Path, _: Asset | None) -> None:
    await added(shop, file)


async def _refer(shop: Shop, _: Path, __: Asset | None) -> None:
    assert await shop.stores.assets.refer("default", named("b.png")) is not None


async def _delete(shop: Shop, _: Path, made: Asset | None) -> None:
    assert made is not None
    await shop.stores.assets.delete("default", made.asset_id)


async def _sweep(shop: Shop, _: Path, __: Asset | None) -> None:
    await in_time(shop, hours=3)


async def test_outputs_and_uploads_are_assets(memory_shop: Shop) -> None:
    """An upload is an asset by its id, and an output by the id of its job, attempt and position."""
    shop, assets = memory_shop, memory_shop.stores.assets
    upload, _, _ = await shop.stores.uploads.create("default", size_bytes=6, content_type="image/gif", filename="a.gif")
    await shop.objects.put(upload.key, b"GIF89a")
    found = await assets.find("default", upload.upload_id)
    assert (found.kind, found.file_path, found.hash, found.key) == ("upload", "a.gif", None, upload.key)
    await assets.delete("default", upload.upload_id)
    with pytest.raises(AssetNotFound):
        await assets.find("default", upload.upload_id)

    claimed = await shop.claimed()
    output = Output(
        filename="x.png",
        type="image",
        node_id="2",
        key=keys.output("default", claimed.job_id, 1, 0, "x.png"),
        size_bytes=3,
        content_type="image/png",
        sha256="",
    )
    now = shop.clock.now()
    ended = await shop.jobs.evolve(
        "default", claimed.job_id, lambda record: record.complete(attempt=1, now=now, outputs=(output,))
    )
    output_id = str(OutputId.of(claimed.job_id, output))
    found = await assets.find("default", output_id)
    assert (found.kind, found.file_path, found.job_id, found.key) == ("output", "x.png", claimed.job_id, output.key)
    assert found.expires_at == ended.record.due_at
    with pytest.raises(AssetInUse):
        await assets.delete("default", output_id)
    for tenant, asset_id in (("other", output_id), ("default", f"{claimed.job_id}.1.1")):
        with pytest.raises(AssetNotFound):
            await assets.delete(tenant, asset_id)


async def test_the_requests_of_an_upload_and_of_a_hit(memory_shop: Shop, file: Path) -> None:
    """An upload takes seven requests, an identical reference a LIST and a GET, another name seven without the bytes."""
    bucket, assets = memory_shop.objects, memory_shop.stores.assets
    assert isinstance(bucket, MemoryObjectStore)
    made = await added(memory_shop, file)
    assert dict(+bucket.requests) == {"PUT": 7}
    bucket.requests.clear()
    await assets.with_hash("default", HASH)
    assert dict(+bucket.requests) == {"LIST": 1, "GET": 1}
    bucket.requests.clear()
    await assets.refer("default", named("a.png"))
    assert dict(+bucket.requests) == {"LIST": 1, "GET": 1}
    bucket.requests.clear()
    await assets.refer("default", named("b.png"))
    assert dict(+bucket.requests) == {"LIST": 2, "GET": 1, "PUT": 5}
    bucket.requests.clear()
    await assets.find("default", made.asset_id)
    assert dict(+bucket.requests) == {"GET": 1}

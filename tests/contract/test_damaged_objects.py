"""Stored objects that no version can read, as a damaged disk leaves them, stop nothing else."""

import gzip
from datetime import timedelta
from pathlib import Path

import pytest

from infra.compose.stores import make_stores
from infra.settings import Settings
from storage import keys
from storage.access.partner_keys import PartnerKeyStore
from storage.clock import ManualClock
from storage.errors import RecordUnreadable, SealBroken
from storage.pools.engine_info import CACHE_LIFE, MAX_INFO_BYTES, EngineInfoStore
from storage.pools.runtimes import RuntimeStore
from storage.signal import MemorySignal
from storage.webhooks.signing import new_secret
from tests.simulation.engine import SimulatedHost
from tests.simulation.faults import NONE, Faults
from tests.support.api_server import BLUE, Api
from tests.support.counted_bucket import CountedBucket
from workers.publisher import PUBLISH_USE_EVERY, Publisher, WorkerIdentity

pytestmark = pytest.mark.anyio

ENGINE = keys.engine_info("default")
UNREADABLE = {
    "no gzip": b"\xff garbage",
    "cut": gzip.compress(b"{}")[:12],
    "null": gzip.compress(b"null"),
    "no fields": gzip.compress(b"{}"),
    "no UTF-8": gzip.compress(b'"\xff"'),
    "deep": gzip.compress(b"[" * 100_000),
    "a long number": gzip.compress(b"9" * 6_000),
    "a bomb": gzip.compress(b" " * (MAX_INFO_BYTES + 1)),
    "no time zone": gzip.compress(
        b'{"object_info": {}, "comfyui_version": null, "published_at": "2026-11-23T12:00:00", "files_listed": true}'
    ),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
async def test_jobs_are_accepted_without_readable_engine_information(memory_api: Api, body: bytes) -> None:
    """Unreadable engine information counts as that of no engine: jobs are accepted, and the nodes are unknown."""
    await memory_api.stores.objects.put(ENGINE, body)
    assert (await memory_api.client.post("/v1/jobs", json={"workflow": BLUE})).status_code == 202
    assert (await memory_api.client.post("/v1/workflows/inspect", json={"workflow": BLUE})).status_code == 200
    assert (await memory_api.client.get("/v1/nodes")).json()["nodes"] == []


async def test_unreadable_engine_information_is_fetched_once(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An unreadable object is fetched and logged once, and its replacement is noticed."""
    objects = CountedBucket(clock)
    info = EngineInfoStore(objects, clock)
    await objects.put(ENGINE, b"damaged")
    for _ in range(3):
        assert not (await info.catalogue("default")).is_known
        clock.set(clock.now() + CACHE_LIFE)
    assert objects.take().requests == {"PUT": 1, "GET": 1, "HEAD": 2}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert ENGINE in caplog.text
    await EngineInfoStore(objects, clock).publish("default", {"A": {}})
    assert (await info.catalogue("default")).is_known


async def test_a_process_keeps_the_version_that_it_could_read(clock: ManualClock) -> None:
    """A process that has read the engine information keeps it when the object becomes unreadable."""
    objects = CountedBucket(clock)
    info = EngineInfoStore(objects, clock)
    await info.publish("default", {"A": {}})
    assert (await info.catalogue("default")).class_types() == ["A"]
    await objects.put(ENGINE, b"damaged")
    clock.set(clock.now() + 2 * CACHE_LIFE)
    assert (await info.catalogue("default")).class_types() == ["A"]
    await info.files_changed("default")


async def test_added_models_do_not_fail_on_unreadable_engine_information(clock: ManualClock) -> None:
    """Models can be added while the engine information is unreadable."""
    objects = CountedBucket(clock)
    await objects.put(ENGINE, b"damaged")
    await EngineInfoStore(objects, clock).files_changed("default")
    assert objects.contents()[ENGINE] == b"damaged"


async def announced(objects: CountedBucket, clock: ManualClock, folder: Path) -> Publisher:
    """Returns the publisher of a worker whose engine is published."""
    stores = make_stores(Settings(bucket="tests"), objects, MemorySignal(), clock)
    host = SimulatedHost(Faults(0, NONE), folder / "output")
    await host.start()
    publisher = Publisher(WorkerIdentity("w", "default"), host, stores)
    await publisher.announce()
    await publisher.keep_announced()
    return publisher


@pytest.mark.parametrize("damage", [b"damaged", None])
async def test_a_running_worker_publishes_again(clock: ManualClock, tmp_path: Path, damage: bytes | None) -> None:
    """A worker notices within a minute that its engine's object is damaged or gone, and publishes it again."""
    objects = CountedBucket(clock)
    publisher = await announced(objects, clock, tmp_path)
    if damage is None:
        await objects.delete(ENGINE)
    else:
        await objects.put(ENGINE, damage)
    clock.set(clock.now() + PUBLISH_USE_EVERY)
    await publisher.keep_announced()
    assert (await EngineInfoStore(objects, clock).catalogue("default")).is_known


async def test_workers_of_a_pool_accept_what_the_others_publish(clock: ManualClock, tmp_path: Path) -> None:
    """A worker fetches what another has published once, and replaces it only when it is due."""
    objects = CountedBucket(clock)
    publisher = await announced(objects, clock, tmp_path)
    clock.set(clock.now() + timedelta(seconds=1))
    await EngineInfoStore(objects, clock).publish("default", {"Other": {}})
    costs = []
    for _ in range(3):
        objects.take()
        clock.set(clock.now() + PUBLISH_USE_EVERY)
        await publisher.keep_announced()
        costs.append(dict(objects.take().requests))
    use = {"PUT": 1, "HEAD": 1}
    assert costs == [use | {"GET": 1}, use, use]


async def test_a_damaged_claim_of_a_key_has_its_own_words(memory_api: Api) -> None:
    """A request whose Idempotency-Key has an unreadable claim is refused with the words for unreadable records."""
    objects, headers = memory_api.stores.objects, {"idempotency-key": "k"}
    await memory_api.client.post("/v1/jobs", json={"workflow": BLUE}, headers=headers)
    (claim,) = (await objects.list("tenants/default/idempotency/")).keys
    for body in (b"\xff", b"{}", b"[" * 100_000):
        await objects.put(claim, body)
        response = await memory_api.client.post("/v1/jobs", json={"workflow": BLUE}, headers=headers)
        assert (response.status_code, response.json()["type"]) == (500, "/problems/internal-error")
        assert "cannot be read" in response.json()["detail"]


async def test_a_damaged_log_is_shown(memory_api: Api) -> None:
    """A log with bytes that are not UTF-8 is shown with a replacement character for each."""
    logs = memory_api.stores.logs
    await memory_api.stores.objects.put(keys.log("default", "job", 1), b"one\xff\ntwo\n")
    assert await logs.read("default", "job", 1) == "one\N{REPLACEMENT CHARACTER}\ntwo\n"
    assert await logs.tail("default", "job", 1, 1) == ("two",)


@pytest.mark.parametrize("body", [b"\xff", b"{}", b'["a"]', b"[" * 100_000, b"[NaN]"])
async def test_damaged_run_times_are_replaced(clock: ManualClock, body: bytes) -> None:
    """Run times that cannot be read give no estimate, and the next run time replaces them."""
    objects = CountedBucket(clock)
    await objects.put(keys.runtimes("default", "shape"), body)
    assert await RuntimeStore(objects, clock).estimate("default", "shape") is None
    await RuntimeStore(objects, clock).record("default", "shape", 12.0)
    assert await RuntimeStore(objects, clock).estimate("default", "shape") == 12


async def test_a_damaged_upload_is_an_unreadable_record(memory_api: Api) -> None:
    """An upload whose record is damaged is no unknown upload, and its error does not repeat the bytes."""
    await memory_api.stores.objects.put(keys.upload("default", "one"), b"\xffsecret")
    with pytest.raises(RecordUnreadable, match=r"upload\.json cannot be read") as raised:
        await memory_api.stores.uploads.resolve("default", "one")
    assert "secret" not in str(raised.value)


async def test_a_damaged_tombstone_is_an_unreadable_record(memory_api: Api) -> None:
    """A job whose tombstone is damaged is an unreadable record."""
    await memory_api.stores.objects.put(keys.record("default", "one"), b'{"gone_at": \xff}')
    with pytest.raises(RecordUnreadable):
        await memory_api.stores.jobs.read("default", "one")


async def test_a_cut_partner_key_does_not_open(clock: ManualClock) -> None:
    """A sealed partner key that was cut is one that cannot be opened."""
    objects = CountedBucket(clock)
    await objects.put(keys.partner_key("default", "one"), b"cut")
    with pytest.raises(SealBroken):
        await PartnerKeyStore(objects, (new_secret(),)).read("default", "one")

"""Conditional writes that lose races: the loser reads again, and reports an error if it never wins."""

from datetime import timedelta

import pytest

from storage.access.byte_ledger import ByteLedger
from storage.access.key_store import ApiKeyStore, new_record
from storage.clock import ManualClock
from storage.errors import StorageUnavailable
from storage.jobs.idempotency import KEY_LIFE, IdempotencyStore
from storage.jobs.record import JobRecord
from storage.keys import engine_info
from storage.pools.engine_info import EngineInfo, EngineInfoStore
from tests.support.outrun import OutrunStore
from tests.support.shop import Shop

pytestmark = pytest.mark.anyio

FOR_EVER = 10**6


@pytest.fixture
def objects(clock: ManualClock) -> OutrunStore:
    return OutrunStore(clock)


async def test_a_key_is_revoked_despite_a_lost_race(objects: OutrunStore, clock: ManualClock) -> None:
    """A key is revoked although another operator has just changed it."""
    access = ApiKeyStore(objects, clock)
    _, record = new_record("acme", now=clock.now())
    await access.add(record)
    objects.lost["api-keys"] = 1
    assert (await access.revoke(record.kid)).revoked_at == clock.now()
    assert [found.revoked_at for found in await access.all()] == [clock.now()]


async def test_a_key_that_changes_constantly_is_not_reported_as_revoked(
    objects: OutrunStore, clock: ManualClock
) -> None:
    """A revocation that never wins is an error, and the key remains valid."""
    access = ApiKeyStore(objects, clock)
    _, record = new_record("acme", now=clock.now())
    await access.add(record)
    objects.lost["api-keys"] = FOR_EVER
    with pytest.raises(StorageUnavailable, match="changes too fast"):
        await access.revoke(record.kid)
    assert [found.revoked_at for found in await access.all()] == [None]


async def test_a_job_that_changes_constantly_is_not_changed(objects: OutrunStore, clock: ManualClock) -> None:
    """A change of a job that never wins is an error, and writes nothing."""
    shop = Shop(objects, clock)
    record = await shop.queued()
    objects.lost["job.json"] = FOR_EVER

    def cancel(found: JobRecord) -> JobRecord:
        return found.cancel(now=clock.now())

    with pytest.raises(StorageUnavailable, match="changes too fast"):
        await shop.jobs.evolve(record.tenant, record.job_id, cancel)
    assert await shop.read(record) == record


async def test_new_models_are_recorded_despite_a_lost_race(objects: OutrunStore, clock: ManualClock) -> None:
    """Changed model files are recorded although a worker published at the same time."""
    info = EngineInfoStore(objects, clock)
    await info.publish("default", {"SaveImage": {}})
    objects.lost[engine_info("default")] = 2
    await info.files_changed("default")
    assert not EngineInfo.from_bytes((await objects.get(engine_info("default"))).body).files_listed


async def test_bytes_that_cannot_be_counted_are_refused(objects: OutrunStore, clock: ManualClock) -> None:
    """Bytes are charged after a lost race, and refused if their charge never wins."""
    ledger = ByteLedger(objects, clock)
    assert await ledger.charge("acme", 60, limit=100)
    objects.lost["bytes.json"] = 1
    assert await ledger.charge("acme", 10, limit=100)
    objects.lost["bytes.json"] = FOR_EVER
    with pytest.raises(StorageUnavailable, match="changes too fast"):
        await ledger.charge("acme", 10, limit=100)
    objects.lost.clear()
    assert not await ledger.charge("acme", 31, limit=100)


async def test_an_old_idempotency_key_has_one_new_owner(objects: OutrunStore, clock: ManualClock) -> None:
    """The loser of a race for an expired idempotency key gets the winner's id or an error."""
    store = IdempotencyStore(objects, clock)
    await store.claim("acme", "jobs", "k", "body")
    clock.set(clock.now() + KEY_LIFE + timedelta(seconds=1))
    objects.lost["idempotency"] = FOR_EVER
    with pytest.raises(StorageUnavailable, match="changes too fast"):
        await store.claim("acme", "jobs", "k", "body")
    objects.lost["idempotency"] = 1
    own = await store.claim("acme", "jobs", "k", "body")
    assert own.is_first
    again = await store.claim("acme", "jobs", "k", "body")
    assert (again.id, again.is_first) == (own.id, False)

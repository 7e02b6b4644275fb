"""Lookups of API keys during a flood of invented keys whose checksum is right."""

import asyncio
from datetime import timedelta

import pytest

from storage import keys
from storage.access.api_keys import new_key, new_kid
from storage.access.key_store import CACHE_LIFE, FIRST_LOOKUPS, MOST_WAITING, ApiKeyStore, KeyRecord, new_record
from storage.bucket.budget import budget_of, current_owner
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import StoredObject
from storage.clock import ManualClock
from storage.errors import BudgetSpent, LookupsBusy
from storage.fair_slots import FairSlots

pytestmark = pytest.mark.anyio

THREADS = 8


class SlowStore(MemoryObjectStore):
    """A bucket that shares its threads between owners as the S3 adapter does, and answers while `gate` is set."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun: list[str] = []
        self._threads = FairSlots(THREADS)

    async def get(self, key: str) -> StoredObject:
        async with self._threads.slot(current_owner()):
            self.begun.append(key)
            await self.gate.wait()
            return await super().get(key)


@pytest.fixture
async def bucket(clock: ManualClock) -> SlowStore:
    return SlowStore(clock)


@pytest.fixture
def store(bucket: SlowStore, clock: ManualClock) -> ApiKeyStore:
    return ApiKeyStore(bucket, clock)


async def presented(store: ApiKeyStore, key: str, *, budget_s: float = 30) -> KeyRecord | None:
    with budget_of(budget_s):
        return await store.authenticate(key)


async def started(
    store: ApiKeyStore, *presented_keys: str, budget_s: float = 30
) -> list[asyncio.Task[KeyRecord | None]]:
    """Present each key in a request of its own; return when every request waits or has ended."""
    requests = [asyncio.create_task(presented(store, key, budget_s=budget_s)) for key in presented_keys]
    for _ in range(10):
        await asyncio.sleep(0)
    return requests


async def test_a_flood_of_invented_keys_is_bounded(store: ApiKeyStore, bucket: SlowStore) -> None:
    """Few unknown keys are looked up at once, a bounded number waits, and the others are refused at once."""
    bucket.gate.clear()
    most = FIRST_LOOKUPS + MOST_WAITING
    flood = await started(store, *(new_key(new_kid()) for _ in range(most + 10)))
    assert len(bucket.begun) == FIRST_LOOKUPS < THREADS
    assert [request.done() for request in flood] == [False] * most + [True] * 10
    for request in flood[most:]:
        with pytest.raises(LookupsBusy):
            request.result()
    bucket.gate.set()
    assert await asyncio.gather(*flood[:most]) == [None] * most
    assert await presented(store, new_key(new_kid())) is None


async def test_a_key_in_use_does_not_wait_behind_invented_keys(
    store: ApiKeyStore, bucket: SlowStore, clock: ManualClock
) -> None:
    """A key that was found before is looked up again at once, however many unknown keys wait."""
    key, record = new_record("acme", now=clock.now())
    await store.add(record)
    assert await presented(store, key) == record
    clock.set(clock.now() + 100 * CACHE_LIFE)
    bucket.gate.clear()
    flood = await started(store, *(new_key(new_kid()) for _ in range(500)))
    (request,) = await started(store, key)
    assert bucket.begun[-1] == keys.api_key(record.kid)
    bucket.gate.set()
    assert await request == record
    await asyncio.gather(*flood, return_exceptions=True)


async def test_keys_in_use_have_turns_of_their_own(store: ApiKeyStore, bucket: SlowStore, clock: ManualClock) -> None:
    """When all threads are busy, a key that was found before gets a turn before the second of the unknown keys."""
    key, record = new_record("acme", now=clock.now())
    await store.add(record)
    assert await presented(store, key) == record
    clock.set(clock.now() + CACHE_LIFE + timedelta(seconds=1))
    bucket.gate.clear()
    with budget_of(30) as budget:
        budget.owner = "busy"
        busy = [asyncio.create_task(bucket.get(keys.API_KEYS + str(number))) for number in range(THREADS)]
    flood = await started(store, *(new_key(new_kid()) for _ in range(FIRST_LOOKUPS)))
    (request,) = await started(store, key)
    assert len(bucket.begun) == 1 + THREADS
    bucket.gate.set()
    assert await request == record
    assert bucket.begun.index(keys.api_key(record.kid), 1) <= 1 + THREADS + 1
    await asyncio.gather(*flood, *busy, return_exceptions=True)


async def test_requests_share_the_lookup_of_a_key(store: ApiKeyStore, bucket: SlowStore, clock: ManualClock) -> None:
    """Requests with one kid share one GET, also when the client of the first one disconnects."""
    key, record = new_record("acme", now=clock.now())
    await store.add(record)
    bucket.gate.clear()
    first, *others = await started(store, *[key] * 100, new_key(record.kid))
    first.cancel()
    bucket.gate.set()
    assert await asyncio.gather(*others) == [record] * 99 + [None]
    assert first.cancelled()
    assert bucket.requests["GET"] == 1


async def test_a_request_waits_for_a_lookup_within_its_budget(store: ApiKeyStore, bucket: SlowStore) -> None:
    """A request whose budget ends stops waiting for the lookup that another request began."""
    bucket.gate.clear()
    key = new_key(new_kid())
    (other,) = await started(store, key)
    (spent,) = await started(store, key, budget_s=0)
    assert spent.done()
    with pytest.raises(BudgetSpent):
        spent.result()
    bucket.gate.set()
    assert await other is None


async def test_a_key_that_was_removed_is_looked_up_like_a_new_one(
    store: ApiKeyStore, bucket: SlowStore, clock: ManualClock
) -> None:
    """A kid whose record is gone counts as unknown from its next lookup on."""
    key, record = new_record("acme", now=clock.now())
    await store.add(record)
    assert await presented(store, key) == record
    await bucket.delete(keys.api_key(record.kid))
    for _ in range(2):
        clock.set(clock.now() + CACHE_LIFE + timedelta(seconds=1))
        assert await presented(store, key) is None
    clock.set(clock.now() + CACHE_LIFE + timedelta(seconds=1))
    bucket.gate.clear()
    flood = await started(store, *(new_key(new_kid()) for _ in range(FIRST_LOOKUPS + MOST_WAITING)))
    (request,) = await started(store, key)
    assert request.done()
    with pytest.raises(LookupsBusy):
        request.result()
    bucket.gate.set()
    await asyncio.gather(*flood)

"""What a deliverer does at once, and in which order: receivers do not wait for one another."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr

from infra.compose.deliverer import dispatcher
from infra.compose.stores import make_stores
from infra.settings import Settings
from storage.bucket.memory import MemoryObjectStore
from storage.clock import SystemClock
from storage.index_keys import EventRef, OutboxEntry
from storage.jobs.index import endpoint_of
from storage.outbox import PAGE
from storage.signal import MemorySignal
from storage.stores import Stores
from storage.webhooks.post import Answer
from storage.webhooks.signing import new_secret
from tests.support.records import a_job
from workers.webhooks.dispatcher import (
    AT_ONCE,
    AT_ONCE_PER_ENDPOINT,
    AT_ONCE_PER_HOST,
    AT_ONCE_PER_TENANT,
    MAX_PAGES,
)

pytestmark = pytest.mark.anyio

SETTINGS = Settings(bucket="tests", webhook_secret=SecretStr(new_secret()), deliver_poll_s=3600)
"""Nothing here is found because time has passed."""
SLOW, WELL = "https://slow.example.com/", "https://well.example.com/"


@dataclass
class Receivers:
    """A `WebhookTransport` whose one host hangs until `released`."""

    released: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)

    async def post(self, tenant: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.begun.append(url)
        if url.startswith(SLOW.rstrip("/")):
            await self.released.wait()
        self.taken.append(url)
        return Answer(204, 1)

    async def handshake(self, tenant: str, url: str, origin: str) -> Answer | None:
        raise AssertionError("nobody is asked")


class House:
    """`stores` ring the deliverer, `quiet` ones do not."""

    def __init__(self) -> None:
        self.objects = MemoryObjectStore(SystemClock())
        self.receivers = Receivers()
        self.stores = make_stores(SETTINGS, self.objects, MemorySignal())
        self.quiet = make_stores(SETTINGS, self.objects, MemorySignal())

    @asynccontextmanager
    async def delivering(self, settings: Settings = SETTINGS) -> AsyncIterator[Receivers]:
        stop = asyncio.Event()
        serving = asyncio.create_task(dispatcher(settings, self.stores, self.receivers).serve(stop))
        try:
            yield self.receivers
        finally:
            self.receivers.released.set()
            stop.set()
            await serving


async def _happen(stores: Stores, url: str, times: int = 1, *, tenant: str = "default") -> None:
    """Jobs end, each with one event."""
    for _ in range(times):
        record = a_job(tenant=tenant, created_at=SystemClock().now(), webhook_url=url, webhook_events=("failed",))
        await stores.jobs.create(record, workflow=b"{}")
        now = SystemClock().now()
        await stores.jobs.evolve(record.tenant, record.job_id, lambda job, now=now: job.cancel(now=now))  # type: ignore[misc]


async def _until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not check():  # noqa: ASYNC110  what it looks at has no Event
            await asyncio.sleep(0.005)


async def test_a_receiver_that_hangs_delays_nobody() -> None:
    """It has a few attempts under way and no more; the events of another, which came later, all arrive meanwhile."""
    house = House()
    await _happen(house.quiet, SLOW, 100)
    await _happen(house.quiet, WELL, 20)
    async with house.delivering() as receivers:
        await _until(lambda: receivers.taken.count(WELL) == 20)
        assert receivers.begun.count(SLOW) == AT_ONCE_PER_ENDPOINT
        assert SLOW not in receivers.taken
        receivers.released.set()
        await _until(lambda: receivers.taken.count(SLOW) == 100)


async def test_what_waits_is_listed_once() -> None:
    """As one attempt ends the next one begins, without another LIST."""
    house = House()
    await _happen(house.quiet, WELL, 50)
    house.objects.requests.clear()
    async with house.delivering() as receivers:
        await _until(lambda: receivers.taken.count(WELL) == 50)
    assert receivers.begun.count(WELL) == 50
    assert house.objects.requests["LIST"] == 1


async def test_a_signal_is_heard_while_others_wait() -> None:
    """A new event does not wait for the attempts that are under way."""
    house = House()
    await _happen(house.quiet, SLOW, 2 * AT_ONCE_PER_ENDPOINT)
    async with house.delivering() as receivers:
        await _until(lambda: receivers.begun.count(SLOW) == AT_ONCE_PER_ENDPOINT)
        await _happen(house.stores, WELL)
        await _until(lambda: receivers.taken == [WELL])


async def test_more_than_a_page_is_due() -> None:
    """The pages that follow are looked at as soon as there is room."""
    house = House()
    hooks = [f"https://well-{number}.example.com/" for number in range((PAGE + 50) // 15)]
    await asyncio.gather(*(_happen(house.quiet, hook, 15) for hook in hooks))
    async with house.delivering() as receivers:
        await _until(lambda: len(receivers.taken) == (PAGE + 50) // 15 * 15)


async def test_more_than_a_look_goes_through_hides_no_other() -> None:
    """A receiver hangs, with more events due than one look lists; the next look goes on behind them."""
    house = House()
    await _happen(house.quiet, SLOW, AT_ONCE_PER_ENDPOINT)
    due = SystemClock().now()
    for _ in range(MAX_PAGES * PAGE):
        waiting = EventRef("default", "job", str(uuid.uuid4()), 1)
        await house.objects.put(OutboxEntry(due, endpoint_of(SLOW), waiting).key, b"")
    await asyncio.sleep(0.002)  # so that what follows is listed behind them
    await _happen(house.quiet, WELL)
    async with house.delivering(SETTINGS.model_copy(update={"deliver_poll_s": 0.05})) as receivers:
        await _until(lambda: receivers.taken == [WELL])


async def test_nothing_is_begun_after_the_end() -> None:
    """What is under way is seen through; what waits is left to the next deliverer."""
    house = House()
    await _happen(house.quiet, SLOW, 3 * AT_ONCE_PER_ENDPOINT)
    async with house.delivering() as receivers:
        await _until(lambda: receivers.begun.count(SLOW) == AT_ONCE_PER_ENDPOINT)
    assert len(receivers.taken) == len(receivers.begun) == AT_ONCE_PER_ENDPOINT


async def test_a_host_that_hangs_delays_nobody_under_many_paths() -> None:
    """Each job names a path of its own on it: together they have some attempts under way, and no more."""
    house = House()
    hanging = [f"{SLOW}{number}" for number in range(AT_ONCE)]
    for url in hanging:
        await _happen(house.quiet, url)
    await _happen(house.quiet, WELL, 5)
    async with house.delivering() as receivers:
        await _until(lambda: receivers.taken.count(WELL) == 5)
        assert len(receivers.begun) == AT_ONCE_PER_HOST + 5
        receivers.released.set()
        await _until(lambda: len(receivers.taken) == AT_ONCE + 5)


async def test_a_tenant_whose_receivers_hang_delays_no_other() -> None:
    """Under many hosts as well, of which anybody can have thousands: half of what is done at once is left to others."""
    house = House()
    for number in range(AT_ONCE + 10):
        await _happen(house.quiet, f"https://slow.example.com.host-{number}.example/", tenant="acme")
    await _happen(house.quiet, WELL, 5)
    async with house.delivering() as receivers:
        await _until(lambda: receivers.taken.count(WELL) == 5)
        assert len(receivers.begun) == AT_ONCE_PER_TENANT + 5
        receivers.released.set()
        await _until(lambda: len(receivers.taken) == AT_ONCE + 15)

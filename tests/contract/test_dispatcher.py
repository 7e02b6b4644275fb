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
from storage.signal import OUTBOX_TOPIC, MemorySignal
from storage.stores import Stores
from storage.webhooks.post import Answer
from storage.webhooks.signing import new_secret
from tests.support.records import a_job
from workers.webhooks.attempt_slots import EVENTS, TESTS
from workers.webhooks.dispatcher import MAX_FRUITLESS

pytestmark = pytest.mark.anyio

SETTINGS = Settings(bucket="tests", webhook_secret=SecretStr(new_secret()), deliver_poll_s=3600)
"""Nothing here is found because time has passed."""
SLOW, WELL = "https://slow.example.com/", "https://well.example.com/"


@dataclass
class Receivers:
    """A `WebhookTransport` whose one host hangs until `released`."""

    released: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    first_released: asyncio.Event = field(default_factory=asyncio.Event)

    async def post(self, tenant: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.begun.append(url)
        self.tenants.append(tenant)
        if len(self.begun) == 1 and url.startswith(SLOW.rstrip("/")):
            releases = {asyncio.ensure_future(event.wait()) for event in (self.released, self.first_released)}
            await asyncio.wait(releases, return_when=asyncio.FIRST_COMPLETED)
            for release in releases:
                release.cancel()
        elif url.startswith(SLOW.rstrip("/")):
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
        assert receivers.begun.count(SLOW) == EVENTS.of_endpoint
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
    await _happen(house.quiet, SLOW, 2 * EVENTS.of_endpoint)
    async with house.delivering() as receivers:
        await _until(lambda: receivers.begun.count(SLOW) == EVENTS.of_endpoint)
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
    await _happen(house.quiet, SLOW, EVENTS.of_endpoint)
    due = SystemClock().now()
    for _ in range(MAX_FRUITLESS * PAGE):
        waiting = EventRef("default", "job", str(uuid.uuid4()), 1)
        await house.objects.put(OutboxEntry(due, endpoint_of(SLOW), waiting).key, b"")
    await asyncio.sleep(0.002)  # so that what follows is listed behind them
    await _happen(house.quiet, WELL)
    async with house.delivering(SETTINGS.model_copy(update={"deliver_poll_s": 0.05})) as receivers:
        await _until(lambda: receivers.taken == [WELL])


async def test_nothing_is_begun_after_the_end() -> None:
    """What is under way is seen through; what waits is left to the next deliverer."""
    house = House()
    await _happen(house.quiet, SLOW, 3 * EVENTS.of_endpoint)
    async with house.delivering() as receivers:
        await _until(lambda: receivers.begun.count(SLOW) == EVENTS.of_endpoint)
    assert len(receivers.taken) == len(receivers.begun) == EVENTS.of_endpoint


async def test_a_host_that_hangs_delays_nobody_under_many_paths() -> None:
    """Each job names a path of its own on it: together they have some attempts under way, and no more."""
    house = House()
    hanging = [f"{SLOW}{number}" for number in range(EVENTS.of_host + 10)]
    for url in hanging:
        await _happen(house.quiet, url)
    await _happen(house.quiet, WELL, 5)
    async with house.delivering() as receivers:
        await _until(lambda: receivers.taken.count(WELL) == 5)
        assert len(receivers.begun) == EVENTS.of_host + 5
        receivers.released.set()
        await _until(lambda: len(receivers.taken) == len(hanging) + 5)


async def test_a_tenant_whose_receivers_hang_delays_no_other() -> None:
    """Its attempts are bounded under many hosts as well, of which a tenant can have thousands."""
    house = House()
    for number in range(EVENTS.of_tenant + 10):
        await _happen(house.quiet, _hanging_host(number), tenant="acme")
    await _happen(house.quiet, WELL, 5)
    async with house.delivering() as receivers:
        await _until(lambda: receivers.taken.count(WELL) == 5)
        assert len(receivers.begun) == EVENTS.of_tenant + 5
        receivers.released.set()
        await _until(lambda: len(receivers.taken) == EVENTS.of_tenant + 15)


async def test_the_events_of_one_tenant_do_not_precede_those_of_another() -> None:
    """With 3,000 events due to a receiver of one tenant that hangs, the second LIST finds the other tenant's event."""
    house = House()
    await _happen(house.quiet, SLOW, EVENTS.of_endpoint, tenant="acme")
    await _due(house, "acme", 3 * PAGE)
    await asyncio.sleep(0.002)  # so that what follows is due after them
    await _happen(house.quiet, WELL, tenant="beta")
    first = await house.quiet.outbox.due()
    assert {entry.ref.tenant for entry in first.entries} == set(first.rest) == {"acme"}
    second = await house.quiet.outbox.due(first.next_tenants or "")
    assert [entry.ref.tenant for entry in second.entries] == ["beta"]
    async with house.delivering() as receivers:
        await _until(lambda: WELL in receivers.taken)
        assert SLOW not in receivers.taken


async def test_a_tenant_with_many_events_gets_its_further_pages() -> None:
    """They are listed after the first pages of all tenants, until an attempt can start."""
    house = House()
    await _due(house, "acme", 3 * PAGE)
    await asyncio.sleep(0.002)
    await _happen(house.quiet, WELL, tenant="acme")
    async with house.delivering() as receivers:
        await _until(lambda: receivers.taken == [WELL])


async def test_two_tenants_may_share_a_receiver() -> None:
    """The attempts of one tenant at a host leave those of another at the same host their own slots."""
    house = House()
    await _happen(house.quiet, SLOW, EVENTS.of_host + 10, tenant="acme")
    await _happen(house.quiet, SLOW, 1, tenant="beta")
    async with house.delivering() as receivers:
        await _until(lambda: "beta" in receivers.tenants)
        assert receivers.tenants.count("acme") == EVENTS.of_endpoint


async def test_slots_go_to_the_tenants_in_turn() -> None:
    """When every slot is taken, the next one that is released goes to the tenant that has none."""
    house = House()
    crowd = [f"crowd-{number}" for number in range(EVENTS.in_all // EVENTS.of_tenant)]
    for tenant in crowd:
        for number in range(EVENTS.of_tenant + 2):
            await _happen(house.quiet, _hanging_host(number), tenant=tenant)
    async with house.delivering() as receivers:
        await _until(lambda: len(receivers.begun) == EVENTS.in_all)
        await _happen(house.stores, WELL, tenant="zoe")  # the last of the tenants in a LIST
        await _until(lambda: house.objects.requests["LIST"] >= 2)
        receivers.first_released.set()
        await _until(lambda: len(receivers.begun) > EVENTS.in_all)
        assert receivers.tenants[EVENTS.in_all] == "zoe"


async def test_a_test_of_a_receiver_does_not_wait_for_events() -> None:
    """It has slots of its own, of which one tenant cannot take all either."""
    house = House()
    for number in range(EVENTS.of_tenant):
        await _happen(house.quiet, _hanging_host(number), tenant="acme")
    for number in range(TESTS.of_tenant + 10):
        await house.quiet.deliveries.test("acme", _hanging_host(number), str(uuid.uuid4()))
    async with house.delivering() as receivers:
        await _until(lambda: len(receivers.begun) == EVENTS.of_tenant + TESTS.of_tenant)
        await house.stores.deliveries.test("beta", WELL, str(uuid.uuid4()))
        house.stores.signal.ring(OUTBOX_TOPIC)
        await _until(lambda: WELL in receivers.taken)
        assert len(receivers.begun) == EVENTS.of_tenant + TESTS.of_tenant + 1


async def test_a_sweep_ends_when_nothing_more_can_be_sent() -> None:
    """What was announced during the sweep is sent as well."""
    house = House()
    await _happen(house.quiet, SLOW)
    sweeping = asyncio.create_task(dispatcher(SETTINGS, house.stores, house.receivers).sweep())
    await _until(lambda: SLOW in house.receivers.begun)
    await _happen(house.stores, WELL, tenant="beta")
    await _until(lambda: WELL in house.receivers.taken)
    house.receivers.released.set()
    await asyncio.wait_for(sweeping, 30)
    assert sorted(house.receivers.taken) == sorted([SLOW, WELL])


def _hanging_host(number: int) -> str:
    return f"https://slow.example.com.host-{number}.example/"


async def _due(house: House, tenant: str, number: int) -> None:
    """Entries of a receiver that hangs, whose events are not committed yet."""
    due = SystemClock().now()
    for _ in range(number):
        waiting = EventRef(tenant, "job", str(uuid.uuid4()), 1)
        await house.objects.put(OutboxEntry(due, endpoint_of(SLOW), waiting).key, b"")

"""Concurrency and order of deliveries: receivers do not wait for one another."""

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
from storage.webhooks.signing import new_secret
from tests.support.records import a_job
from workers.webhooks.attempt_slots import EVENTS, TESTS
from workers.webhooks.dispatcher import MAX_FRUITLESS
from workers.webhooks.post import Answer

pytestmark = pytest.mark.anyio

SETTINGS = Settings(bucket="tests", webhook_secret=SecretStr(new_secret()), deliver_poll_s=3600)
"""The long poll interval ensures that no event is found merely because time has passed."""
HANGING, HEALTHY = "https://slow.example.com/", "https://well.example.com/"


@dataclass
class Receivers:
    """A `WebhookTransport` whose one host hangs until `released`."""

    released: asyncio.Event = field(default_factory=asyncio.Event)
    attempted: list[str] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    first_released: asyncio.Event = field(default_factory=asyncio.Event)

    async def post(self, tenant: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.attempted.append(url)
        self.tenants.append(tenant)
        if len(self.attempted) == 1 and url.startswith(HANGING.rstrip("/")):
            releases = {asyncio.ensure_future(event.wait()) for event in (self.released, self.first_released)}
            await asyncio.wait(releases, return_when=asyncio.FIRST_COMPLETED)
            for release in releases:
                release.cancel()
        elif url.startswith(HANGING.rstrip("/")):
            await self.released.wait()
        self.received.append(url)
        return Answer(204, 1)

    async def handshake(self, tenant: str, url: str, origin: str) -> Answer | None:
        raise AssertionError("no handshake is expected")


class Deployment:
    """A bucket whose `stores` notify the deliverer of new events, while its `quiet` stores do not."""

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


async def _create_events(stores: Stores, url: str, times: int = 1, *, tenant: str = "default") -> None:
    """Creates jobs that end, each with one event."""
    for _ in range(times):
        record = a_job(tenant=tenant, created_at=SystemClock().now(), webhook_url=url, webhook_events=("failed",))
        await stores.jobs.create(record, workflow=b"{}")
        now = SystemClock().now()
        await stores.jobs.evolve(record.tenant, record.job_id, lambda job, now=now: job.cancel(now=now))  # type: ignore[misc]


async def _until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not check():  # noqa: ASYNC110  the checked state has no Event
            await asyncio.sleep(0.005)


async def test_a_hanging_receiver_delays_no_other() -> None:
    """A hanging receiver has a limited number of attempts in progress, while later events reach another receiver."""
    deployment = Deployment()
    await _create_events(deployment.quiet, HANGING, 100)
    await _create_events(deployment.quiet, HEALTHY, 20)
    async with deployment.delivering() as receivers:
        await _until(lambda: receivers.received.count(HEALTHY) == 20)
        assert receivers.attempted.count(HANGING) == EVENTS.of_endpoint
        assert HANGING not in receivers.received
        receivers.released.set()
        await _until(lambda: receivers.received.count(HANGING) == 100)


async def test_due_events_are_listed_once() -> None:
    """The next attempt starts when one ends, without another LIST."""
    deployment = Deployment()
    await _create_events(deployment.quiet, HEALTHY, 50)
    deployment.objects.requests.clear()
    async with deployment.delivering() as receivers:
        await _until(lambda: receivers.received.count(HEALTHY) == 50)
    assert receivers.attempted.count(HEALTHY) == 50
    assert deployment.objects.requests["LIST"] == 1


async def test_a_signal_is_handled_during_attempts() -> None:
    """A new event is sent without waiting for the attempts in progress."""
    deployment = Deployment()
    await _create_events(deployment.quiet, HANGING, 2 * EVENTS.of_endpoint)
    async with deployment.delivering() as receivers:
        await _until(lambda: receivers.attempted.count(HANGING) == EVENTS.of_endpoint)
        await _create_events(deployment.stores, HEALTHY)
        await _until(lambda: receivers.received == [HEALTHY])


async def test_more_than_one_page_of_events_is_sent() -> None:
    """The following pages of due events are listed as soon as there are free slots."""
    deployment = Deployment()
    hooks = [f"https://well-{number}.example.com/" for number in range((PAGE + 50) // 15)]
    await asyncio.gather(*(_create_events(deployment.quiet, hook, 15) for hook in hooks))
    async with deployment.delivering() as receivers:
        await _until(lambda: len(receivers.received) == (PAGE + 50) // 15 * 15)


async def test_many_events_of_a_hanging_receiver_do_not_hide_others() -> None:
    """With more due events than one pass lists, the next pass continues after them."""
    deployment = Deployment()
    await _create_events(deployment.quiet, HANGING, EVENTS.of_endpoint)
    due = SystemClock().now()
    for _ in range(MAX_FRUITLESS * PAGE):
        waiting = EventRef("default", "job", str(uuid.uuid4()), 1)
        await deployment.objects.put(OutboxEntry(due, endpoint_of(HANGING), waiting).key, b"")
    await asyncio.sleep(0.002)  # so that the following events are listed after them
    await _create_events(deployment.quiet, HEALTHY)
    async with deployment.delivering(SETTINGS.model_copy(update={"deliver_poll_s": 0.05})) as receivers:
        await _until(lambda: receivers.received == [HEALTHY])


async def test_no_attempt_starts_after_the_stop() -> None:
    """Attempts in progress are completed at a stop, and waiting events are left to the next deliverer."""
    deployment = Deployment()
    await _create_events(deployment.quiet, HANGING, 3 * EVENTS.of_endpoint)
    async with deployment.delivering() as receivers:
        await _until(lambda: receivers.attempted.count(HANGING) == EVENTS.of_endpoint)
    assert len(receivers.received) == len(receivers.attempted) == EVENTS.of_endpoint


async def test_a_hanging_host_with_many_paths_delays_no_other() -> None:
    """All paths of a host together have a limited number of attempts in progress."""
    deployment = Deployment()
    hanging = [f"{HANGING}{number}" for number in range(EVENTS.of_host + 10)]
    for url in hanging:
        await _create_events(deployment.quiet, url)
    await _create_events(deployment.quiet, HEALTHY, 5)
    async with deployment.delivering() as receivers:
        await _until(lambda: receivers.received.count(HEALTHY) == 5)
        assert len(receivers.attempted) == EVENTS.of_host + 5
        receivers.released.set()
        await _until(lambda: len(receivers.received) == len(hanging) + 5)


async def test_a_tenant_whose_receivers_hang_delays_no_other() -> None:
    """All hosts of a tenant together have a limited number of attempts in progress."""
    deployment = Deployment()
    for number in range(EVENTS.of_tenant + 10):
        await _create_events(deployment.quiet, _hanging_host(number), tenant="acme")
    await _create_events(deployment.quiet, HEALTHY, 5)
    async with deployment.delivering() as receivers:
        await _until(lambda: receivers.received.count(HEALTHY) == 5)
        assert len(receivers.attempted) == EVENTS.of_tenant + 5
        receivers.released.set()
        await _until(lambda: len(receivers.received) == EVENTS.of_tenant + 15)


async def test_events_of_one_tenant_do_not_delay_those_of_another() -> None:
    """With 3,000 events due to one tenant's hanging receiver, the second LIST finds the other tenant's event."""
    deployment = Deployment()
    await _create_events(deployment.quiet, HANGING, EVENTS.of_endpoint, tenant="acme")
    await _due(deployment, "acme", 3 * PAGE)
    await asyncio.sleep(0.002)  # so that the following events are due after them
    await _create_events(deployment.quiet, HEALTHY, tenant="beta")
    first = await deployment.quiet.outbox.due()
    assert {entry.ref.tenant for entry in first.entries} == set(first.rest) == {"acme"}
    second = await deployment.quiet.outbox.due(first.next_tenants or "")
    assert [entry.ref.tenant for entry in second.entries] == ["beta"]
    async with deployment.delivering() as receivers:
        await _until(lambda: HEALTHY in receivers.received)
        assert HANGING not in receivers.received


async def test_a_tenant_with_many_events_gets_its_further_pages() -> None:
    """Further pages of a tenant are listed after the first pages of all tenants, until an attempt can start."""
    deployment = Deployment()
    await _due(deployment, "acme", 3 * PAGE)
    await asyncio.sleep(0.002)
    await _create_events(deployment.quiet, HEALTHY, tenant="acme")
    async with deployment.delivering() as receivers:
        await _until(lambda: receivers.received == [HEALTHY])


async def test_two_tenants_may_share_a_receiver() -> None:
    """Attempts of one tenant at a host leave another tenant's slots at that host free."""
    deployment = Deployment()
    await _create_events(deployment.quiet, HANGING, EVENTS.of_host + 10, tenant="acme")
    await _create_events(deployment.quiet, HANGING, 1, tenant="beta")
    async with deployment.delivering() as receivers:
        await _until(lambda: "beta" in receivers.tenants)
        assert receivers.tenants.count("acme") == EVENTS.of_endpoint


async def test_slots_are_given_to_tenants_in_turn() -> None:
    """When all slots are in use, the next free slot goes to a tenant that has none."""
    deployment = Deployment()
    crowd = [f"crowd-{number}" for number in range(EVENTS.in_all // EVENTS.of_tenant)]
    for tenant in crowd:
        for number in range(EVENTS.of_tenant + 2):
            await _create_events(deployment.quiet, _hanging_host(number), tenant=tenant)
    async with deployment.delivering() as receivers:
        await _until(lambda: len(receivers.attempted) == EVENTS.in_all)
        await _create_events(deployment.stores, HEALTHY, tenant="zoe")  # the last tenant in a LIST
        await _until(lambda: deployment.objects.requests["LIST"] >= 2)
        await asyncio.sleep(0.05)  # until the listed events wait for a slot
        receivers.first_released.set()
        await _until(lambda: len(receivers.attempted) > EVENTS.in_all)
        assert receivers.tenants[EVENTS.in_all] == "zoe"


async def test_a_test_webhook_does_not_wait_for_events() -> None:
    """Test webhooks have their own slots, and one tenant cannot use all of them."""
    deployment = Deployment()
    for number in range(EVENTS.of_tenant):
        await _create_events(deployment.quiet, _hanging_host(number), tenant="acme")
    for number in range(TESTS.of_tenant + 10):
        await deployment.quiet.deliveries.test("acme", _hanging_host(number), str(uuid.uuid4()))
    async with deployment.delivering() as receivers:
        await _until(lambda: len(receivers.attempted) == EVENTS.of_tenant + TESTS.of_tenant)
        await deployment.stores.deliveries.test("beta", HEALTHY, str(uuid.uuid4()))
        deployment.stores.signal.ring(OUTBOX_TOPIC)
        await _until(lambda: HEALTHY in receivers.received)
        assert len(receivers.attempted) == EVENTS.of_tenant + TESTS.of_tenant + 1


async def test_a_sweep_ends_when_nothing_more_can_be_sent() -> None:
    """Events that are committed during a sweep are sent in the same sweep."""
    deployment = Deployment()
    await _create_events(deployment.quiet, HANGING)
    sweeping = asyncio.create_task(dispatcher(SETTINGS, deployment.stores, deployment.receivers).sweep())
    await _until(lambda: HANGING in deployment.receivers.attempted)
    await _create_events(deployment.stores, HEALTHY, tenant="beta")
    await _until(lambda: HEALTHY in deployment.receivers.received)
    deployment.receivers.released.set()
    await asyncio.wait_for(sweeping, 30)
    assert sorted(deployment.receivers.received) == sorted([HANGING, HEALTHY])


async def test_a_sweep_holds_a_limited_number_of_entries() -> None:
    """A sweep polls again before it lists further entries that cannot start, and still finds the event behind them."""
    deployment, pages = Deployment(), MAX_FRUITLESS + 2
    await _create_events(deployment.quiet, HANGING, EVENTS.of_endpoint)
    await _due(deployment, "default", pages * PAGE)
    await asyncio.sleep(0.002)  # so that the following event is listed after them
    await _create_events(deployment.quiet, HEALTHY)
    deployment.objects.requests.clear()
    sweeping = asyncio.create_task(dispatcher(SETTINGS, deployment.stores, deployment.receivers).sweep(longest_s=30))
    await _until(lambda: deployment.receivers.received == [HEALTHY])
    assert deployment.objects.requests["LIST"] > 2 + pages  # a poll lists twice, each further page once
    sweeping.cancel()
    deployment.receivers.released.set()
    await asyncio.gather(sweeping, return_exceptions=True)


def _hanging_host(number: int) -> str:
    return f"https://slow.example.com.host-{number}.example/"


async def _due(deployment: Deployment, tenant: str, number: int) -> None:
    """Writes outbox entries for a hanging receiver whose events are not committed yet."""
    due = SystemClock().now()
    for _ in range(number):
        waiting = EventRef(tenant, "job", str(uuid.uuid4()), 1)
        await deployment.objects.put(OutboxEntry(due, endpoint_of(HANGING), waiting).key, b"")

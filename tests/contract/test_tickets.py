"""Tickets: as many wait as jobs are queued, up to the containers of the pool; surplus ones are withdrawn."""

from collections.abc import Awaitable, Callable

import pytest

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.launcher import MemoryLauncher, NoLauncher
from storage.tickets import Tickets
from tests.support.shop import Shop

pytestmark = pytest.mark.anyio


class BusyLauncher(MemoryLauncher):
    """A launcher at which `meanwhile` happens before a ticket is withdrawn."""

    def __init__(self, meanwhile: Callable[[], Awaitable[None]]) -> None:
        super().__init__(most_containers=1)
        self._meanwhile = meanwhile

    async def cancel(self, ticket: str) -> None:
        await self._meanwhile()
        await super().cancel(ticket)


@pytest.fixture
def launcher() -> MemoryLauncher:
    return MemoryLauncher(most_containers=2)


@pytest.fixture
def shop(objects: ObjectStore, clock: ManualClock, launcher: MemoryLauncher) -> Shop:
    return Shop(objects, clock, launcher)


@pytest.fixture
def tickets(shop: Shop, launcher: MemoryLauncher) -> Tickets:
    return Tickets(launcher, shop.objects)


async def test_no_more_tickets_wait_than_containers_can_run(tickets: Tickets, launcher: MemoryLauncher) -> None:
    """Jobs request tickets until as many wait as the pool may have containers, and again when one was taken."""
    assert [await tickets.request("default") for _ in range(4)] == [1, 1, 0, 0]
    launcher.tickets.pop(0)
    assert await tickets.request("default", jobs=5) == 1
    assert await tickets.request("h100", jobs=5) == 2


async def test_without_a_limit_each_job_requests_a_ticket(objects: ObjectStore) -> None:
    """In a pool without a limit of containers each job requests a ticket."""
    assert await Tickets(MemoryLauncher(), objects).request("default", jobs=5) == 5


async def test_permanent_workers_have_no_tickets(objects: ObjectStore) -> None:
    """Where workers run permanently, no ticket is requested, withdrawn or stored."""
    tickets = Tickets(NoLauncher(), objects)
    assert await tickets.request("default") == await tickets.trim("default") == 0
    assert (await objects.list("tickets/")).keys == ()


async def test_tickets_that_outnumber_the_jobs_are_withdrawn(
    shop: Shop, tickets: Tickets, launcher: MemoryLauncher
) -> None:
    """The newest tickets that outnumber the queued jobs are withdrawn with their keys; the others stay."""
    job = await shop.queued()
    await tickets.request("default", jobs=2)
    assert await tickets.trim("default") == 1
    assert launcher.tickets == ["default-1"]
    assert await shop.keys(keys.tickets("default")) == (keys.ticket("default", "default-1"),)
    assert await tickets.trim("default") == 0
    assert await tickets.trim("default", ended={job.job_id}) == 1
    assert await shop.keys(keys.tickets("default")) == ()


async def test_the_keys_of_taken_tickets_are_deleted(shop: Shop, tickets: Tickets, launcher: MemoryLauncher) -> None:
    """The key of a taken ticket is deleted when the ticket ends, or else when tickets are withdrawn."""
    await tickets.request("default", jobs=2)
    taken = [launcher.tickets.pop(0), launcher.tickets.pop(0)]
    await tickets.ended("default", taken[0])
    assert await shop.keys(keys.tickets("default")) == (keys.ticket("default", taken[1]),)
    await tickets.request("default")
    assert await tickets.trim("default") == 1
    assert await shop.keys(keys.tickets("default")) == ()


async def test_a_job_that_is_queued_during_a_withdrawal_has_a_ticket(objects: ObjectStore, clock: ManualClock) -> None:
    """A job that requested no ticket, because one still waited that is now withdrawn, has a ticket afterwards."""

    async def submit() -> None:
        await busy.queued()
        assert await its_tickets.request("default") == 0

    launcher = BusyLauncher(submit)
    busy, its_tickets = Shop(objects, clock, launcher), Tickets(launcher, objects)
    await its_tickets.request("default")
    assert await its_tickets.trim("default") == 1
    assert launcher.tickets == ["default-2"]

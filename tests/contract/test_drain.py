"""The run of one ticket: a container drains its pool's queue."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage import keys
from storage.keys import DEFAULT_POOL
from storage.launcher import MemoryLauncher
from storage.tickets import Tickets
from tests.support.deployed import BLUE
from tests.support.workbench import Bench, workbench
from workers.drain import Drain

pytestmark = pytest.mark.anyio

JOBS = 3


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with workbench(tmp_path) as bench:
        yield bench


@pytest.fixture
def launcher() -> MemoryLauncher:
    return MemoryLauncher(most_containers=2)


@pytest.fixture
async def tickets(bench: Bench, launcher: MemoryLauncher) -> Tickets:
    """Tickets of a pool with three queued jobs, of which one ticket has been taken."""
    tickets = Tickets(launcher, bench.objects)
    for _ in range(JOBS):
        await bench.submit(BLUE)
        await tickets.request(DEFAULT_POOL)
    launcher.tickets.remove(TAKEN)
    return tickets


TAKEN = "default-1"


async def test_a_ticket_runs_all_queued_jobs(bench: Bench, tickets: Tickets, launcher: MemoryLauncher) -> None:
    """A ticket runs every queued job, and the tickets that wait for none of them any more are withdrawn."""
    assert await Drain(bench.worker, tickets, DEFAULT_POOL, limit_s=60).run(TAKEN) == JOBS
    assert launcher.tickets == []
    assert (await bench.objects.list(keys.tickets(DEFAULT_POOL))).keys == ()


async def test_a_ticket_whose_time_is_over_leaves_the_other_jobs_to_further_tickets(
    bench: Bench, tickets: Tickets, launcher: MemoryLauncher
) -> None:
    """A ticket without time for further jobs runs one, and as many tickets wait afterwards as containers may run."""
    assert await Drain(bench.worker, tickets, DEFAULT_POOL, limit_s=0).run(TAKEN) == 1
    assert len(launcher.tickets) == 2


async def test_a_withdrawn_ticket_ends_after_its_job(bench: Bench, tickets: Tickets, launcher: MemoryLauncher) -> None:
    """A ticket that is withdrawn while it runs a job completes the job, and another ticket waits for the next one."""
    launcher.tickets.clear()
    drain = Drain(bench.worker, tickets, DEFAULT_POOL, limit_s=60)
    drain.end_soon()
    assert await drain.run(TAKEN) == 1
    assert len(launcher.tickets) == 2


async def test_a_ticket_without_a_job_ends(bench: Bench, launcher: MemoryLauncher) -> None:
    """A ticket that finds no job ends at once and withdraws the others."""
    tickets = Tickets(launcher, bench.objects)
    await tickets.request(DEFAULT_POOL, jobs=2)
    launcher.tickets.remove(TAKEN)
    assert await Drain(bench.worker, tickets, DEFAULT_POOL, limit_s=60).run(TAKEN) == 0
    assert launcher.tickets == []


async def test_every_claim_is_prepared(bench: Bench, tickets: Tickets) -> None:
    """The preparation of a claim, which makes new models visible, runs before each job."""
    prepared = []

    async def prepare() -> None:
        prepared.append(1)

    await Drain(bench.worker, tickets, DEFAULT_POOL, limit_s=60, before_claim=prepare).run(TAKEN)
    assert len(prepared) > JOBS

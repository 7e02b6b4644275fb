"""Bucket requests per job, as counts without timing, so that additional requests are noticed on any machine.

A changed number changes what each job of a deployment costs; docs/explanation/performance.md has the prices.
"""

import pytest

from storage.clock import ManualClock
from tests.support.counted_bucket import Cost, CountedBucket
from tests.support.crowds import fill_queued
from tests.support.phases import Phase, measured_phases
from tests.support.shop import Shop

pytestmark = pytest.mark.anyio

KIB = 1024
EXPECTED: dict[Phase, dict[str, int]] = {
    Phase.SUBMIT: {"PUT": 7},
    Phase.SUBMIT_MEDIUM: {"PUT": 8},
    Phase.SUBMIT_KEYED: {"PUT": 9, "GET": 1},
    Phase.REPEAT: {"GET": 2},
    Phase.RUN: {"PUT": 8, "LIST": 1, "GET": 2, "DELETE": 2},
    Phase.RUN_TWO: {"PUT": 9, "LIST": 1, "GET": 2, "DELETE": 2},
    Phase.RUN_MEDIUM: {"PUT": 8, "LIST": 1, "GET": 3, "DELETE": 2},
    Phase.CLAIM: {"PUT": 3, "LIST": 1, "GET": 2, "DELETE": 1},
    Phase.PROGRESS: {"PUT": 1},
    Phase.LOG: {"PUT": 1},
    Phase.WEBHOOK: {"PUT": 3, "LIST": 2, "GET": 1, "DELETE": 1},
    Phase.LOOK: {"GET": 1},
    Phase.PAGE: {"LIST": 1, "GET": 2},
    Phase.IDLE: {"LIST": 1},
    Phase.AHEAD: {"LIST": 1},
    Phase.SWEEP: {"LIST": 3},
    Phase.OUTBOX: {"LIST": 1},
    Phase.REMOVAL: {"PUT": 3, "LIST": 2, "GET": 4, "DELETE": 7},
}
WRITTEN_AT_MOST = {
    Phase.SUBMIT: KIB + KIB // 3,
    Phase.RUN: 3 * KIB + KIB // 3,
    Phase.PROGRESS: KIB + KIB // 3,
    Phase.WEBHOOK: 1 * KIB,
    Phase.REMOVAL: KIB // 2,
}
"""A record has about 1 KiB and is rewritten at each change; the graph and the output of this job are smaller. The end
adds the times of the job and of its nodes."""


@pytest.fixture(scope="module")
async def phases() -> dict[Phase, Cost]:
    return await measured_phases()


async def test_each_phase_of_a_job_makes_the_expected_requests(phases: dict[Phase, Cost]) -> None:
    """Each phase of a job, from submission to removal, makes exactly the expected bucket requests."""
    assert {phase: dict(cost.requests) for phase, cost in phases.items()} == EXPECTED


async def test_a_job_writes_little(phases: dict[Phase, Cost]) -> None:
    """Each phase writes at most its allowed number of bytes, because only the small record is rewritten."""
    written = {phase: phases[phase].written for phase in WRITTEN_AT_MOST}
    assert {phase: size for phase, size in written.items() if size > WRITTEN_AT_MOST[phase]} == {}


async def test_reads_write_nothing(phases: dict[Phase, Cost]) -> None:
    """A client's reads, a repeated submission, an idle worker and a quiet reaper write nothing to the bucket."""
    reading = (Phase.LOOK, Phase.PAGE, Phase.REPEAT, Phase.IDLE, Phase.SWEEP, Phase.OUTBOX)
    assert {phase for phase in reading if phases[phase].requests["PUT"] or phases[phase].written} == set()


@pytest.mark.parametrize("waiting", [10, 3_000])
async def test_the_cost_of_a_claim_does_not_depend_on_the_queue_length(clock: ManualClock, waiting: int) -> None:
    """A claim makes the same number of requests with 10 and with 3,000 queued jobs."""
    bucket = CountedBucket(clock)
    shop = Shop(bucket, clock)
    await fill_queued(bucket, waiting, clock.now())
    bucket.take()
    await shop.claim()
    assert bucket.take().requests == EXPECTED[Phase.CLAIM]


@pytest.mark.parametrize(("waiting", "read"), [(10, 10), (3_000, 100)])
async def test_a_long_queue_does_not_make_the_reaper_expensive(clock: ManualClock, waiting: int, read: int) -> None:
    """A sweep reads at most a hundred queued jobs and the engine's starts, makes a fixed number of LISTs, and
    writes a key for each ticket that it requests."""
    bucket = CountedBucket(clock)
    shop = Shop(bucket, clock)
    await fill_queued(bucket, waiting, clock.now())
    bucket.take()
    await shop.reaper.sweep()
    assert bucket.take().requests == {"LIST": 4, "GET": read + 1, "PUT": read}

"""What a running job costs in writes, and what its holder notices."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.clock import SystemClock
from storage.errors import AttemptFenced, StorageRefused
from storage.jobs.models import ProgressDetails
from storage.jobs.queue import JobQueue
from storage.jobs.store import JobStore, StoredJob
from storage.signal import MemorySignal, job_topic
from tests.support.records import a_job
from workers.reporter import Reporter, ReportPolicy, Snapshot

pytestmark = pytest.mark.anyio

INTERVAL_S = 0.01
HOUR_S = 3600.0


class RefusingStore(MemoryObjectStore):
    """Refuses the next conditional writes, as a bucket whose policy was changed does."""

    refusals = 0

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        if self.refusals:
            self.refusals -= 1
            raise StorageRefused("denied")
        return await super().replace(key, body, etag=etag, content_type=content_type)


class Desk:
    """A claimed job, and a reporter whose calls are counted."""

    def __init__(self) -> None:
        self.clock, self.signal = SystemClock(), MemorySignal()
        self.objects = RefusingStore(self.clock)
        self.jobs = JobStore(self.objects, self.clock, self.signal)
        self.cancels = self.fences = 0

    async def claim(self) -> StoredJob:
        await self.jobs.create(a_job(created_at=self.clock.now()), workflow=b"{}")
        claimed = await JobQueue(self.jobs, self.objects, self.clock, lease_s=60).claim("default", "w1")
        assert claimed is not None
        return claimed

    async def report(
        self,
        claimed: StoredJob,
        observe: Callable[[], Snapshot | None],
        until: Awaitable[object],
        *,
        lease_s: float = HOUR_S,
        cancel_poll_s: float = HOUR_S,
    ) -> Reporter:
        """The reporter, after it ran `until` then."""
        policy = ReportPolicy(interval_s=INTERVAL_S, cancel_poll_s=cancel_poll_s, lease_s=lease_s)
        reporter = Reporter(
            self.jobs, claimed, self.clock, policy, observe=observe, on_cancel=self._cancel, on_fenced=self._fence
        )
        running = asyncio.create_task(reporter.run(self.signal))
        async with asyncio.timeout(20):
            await until
            reporter.stop()
            with suppress(AttemptFenced):
                await running
        return reporter

    def _cancel(self) -> None:
        self.cancels += 1

    def _fence(self) -> None:
        self.fences += 1


class Looks:
    """What the reporter sees at each turn, and whether it has looked often enough."""

    def __init__(self, tell: Callable[[int], int], wanted: int) -> None:
        self.count = 0
        self._tell = tell
        self._wanted = wanted
        self._enough = asyncio.Event()

    def __call__(self) -> Snapshot:
        self.count += 1
        if self.count >= self._wanted:
            self._enough.set()
        nodes = self._tell(self.count)
        return Snapshot(nodes // 2, ProgressDetails(nodes_completed=nodes, nodes_total=200), ())

    async def enough(self) -> None:
        await self._enough.wait()


async def test_what_did_not_change_is_not_written_again() -> None:
    """Ten looks at one and the same progress cost one write."""
    desk, looks = Desk(), Looks(lambda _: 14, wanted=10)
    claimed = await desk.claim()
    reporter = await desk.report(claimed, looks, looks.enough())
    assert (reporter.stored.record.rev - claimed.record.rev, reporter.stored.record.progress) == (1, 7)


async def test_progress_is_looked_at_once_a_turn_however_often_it_changes() -> None:
    """200 nodes cost no more writes than there were turns."""
    finished = 0

    async def work() -> None:
        nonlocal finished
        for _ in range(200):
            finished += 1
            await asyncio.sleep(0)
        await looks.enough()

    desk, looks = Desk(), Looks(lambda _: finished, wanted=5)
    claimed = await desk.claim()
    reporter = await desk.report(claimed, looks, work())
    assert 1 <= reporter.stored.record.rev - claimed.record.rev <= looks.count
    assert reporter.stored.record.progress_details.nodes_completed == 200


async def test_a_lease_is_renewed_though_nothing_happens() -> None:
    """A long node that gives no sign of progress keeps its job."""
    desk = Desk()
    claimed = await desk.claim()

    async def two_writes() -> None:
        with desk.signal.listen(job_topic(claimed.record.tenant, claimed.record.job_id)) as bell:
            for _ in range(2):
                assert await bell.wait(20)

    reporter = await desk.report(claimed, lambda: None, two_writes(), lease_s=0.1)
    assert reporter.stored.record.rev >= claimed.record.rev + 2
    assert reporter.stored.record.progress == 0


async def test_a_cancel_request_is_heard_once() -> None:
    """By the poll, or by the race that the next write loses."""
    desk, looks = Desk(), Looks(lambda count: count, wanted=5)
    claimed = await desk.claim()
    now = desk.clock.now()
    await desk.jobs.evolve("default", claimed.record.job_id, lambda record: record.cancel(now=now))
    await desk.report(claimed, looks, looks.enough(), cancel_poll_s=INTERVAL_S)
    assert (desk.cancels, desk.fences) == (1, 0)


async def test_a_lost_job_is_noticed_and_left_alone() -> None:
    """Another attempt holds it by now."""
    desk, looks = Desk(), Looks(lambda count: count, wanted=1)
    claimed = await desk.claim()
    taken = await desk.jobs.evolve(
        "default",
        claimed.record.job_id,
        lambda record: record.release(attempt=1, now=desk.clock.now()).claim(
            worker="w2", now=desk.clock.now(), lease_s=60
        ),
    )
    reporter = await desk.report(claimed, looks, looks.enough())
    assert (reporter.is_fenced, desk.fences, desk.cancels) == (True, 1, 0)
    assert (await desk.jobs.read("default", claimed.record.job_id)).record == taken.record


async def test_a_bucket_that_refuses_is_asked_again() -> None:
    """A policy may be mended while the job runs."""
    desk, looks = Desk(), Looks(lambda _: 6, wanted=6)
    claimed = await desk.claim()
    desk.objects.refusals = 2
    reporter = await desk.report(claimed, looks, looks.enough())
    assert (reporter.stored.record.progress, desk.objects.refusals) == (3, 0)

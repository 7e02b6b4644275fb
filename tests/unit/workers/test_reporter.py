"""The writes that a running job costs, and the changes that its reporter detects."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.clock import SystemClock
from storage.errors import AttemptFenced, StorageRefused
from storage.jobs.models import Output, ProgressDetails
from storage.jobs.queue import JobQueue
from storage.jobs.store import JobStore, StoredJob
from storage.signal import MemorySignal, job_topic
from tests.support.records import a_job
from workers.errors import WorkerError
from workers.outputs.uploads import UploadPolicy
from workers.reporter import Reporter, ReportPolicy, Snapshot

pytestmark = pytest.mark.anyio

INTERVAL_S = 0.01
HOUR_S = 3600.0
NAME = "renders of a longer project name_{:05}_.png"


class RefusingStore(MemoryObjectStore):
    """Refuses the next conditional writes, like a bucket with a changed policy."""

    refusals = 0

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        if self.refusals:
            self.refusals -= 1
            raise StorageRefused("denied")
        return await super().replace(key, body, etag=etag, content_type=content_type)


class Desk:
    """A claimed job and a reporter whose callbacks are counted."""

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
        """Run a reporter until `until` is done, and return it."""
        policy = ReportPolicy(interval_s=INTERVAL_S, cancel_poll_s=cancel_poll_s, lease_s=lease_s)
        reporter = Reporter(
            self.jobs, claimed, self.clock, policy, observe=observe, on_stop=self._cancel, on_fenced=self._fence
        )
        running = asyncio.create_task(reporter.run(self.signal))
        async with asyncio.timeout(20):
            await until
            reporter.stop()
            with suppress(AttemptFenced):
                await running
        return reporter

    def _cancel(self, _: WorkerError) -> None:
        self.cancels += 1

    def _fence(self) -> None:
        self.fences += 1


class Snapshots:
    """Snapshots for the reporter's observations, with a wait for a given number of them."""

    def __init__(self, nodes_at: Callable[[int], int], wanted: int) -> None:
        self.count = 0
        self._nodes_at = nodes_at
        self._wanted = wanted
        self._enough = asyncio.Event()

    def __call__(self) -> Snapshot:
        self.count += 1
        if self.count >= self._wanted:
            self._enough.set()
        nodes = self._nodes_at(self.count)
        return Snapshot(nodes // 2, ProgressDetails(nodes_completed=nodes, nodes_total=200), ())

    async def enough(self) -> None:
        await self._enough.wait()


async def test_unchanged_progress_is_not_written_again() -> None:
    """Ten observations of the same progress cost one write."""
    desk, snapshots = Desk(), Snapshots(lambda _: 14, wanted=10)
    claimed = await desk.claim()
    reporter = await desk.report(claimed, snapshots, snapshots.enough())
    assert (reporter.stored.record.rev - claimed.record.rev, reporter.stored.record.progress) == (1, 7)


async def test_progress_is_written_at_most_once_per_interval() -> None:
    """200 finished nodes cost at most one write per interval."""
    finished = 0

    async def work() -> None:
        nonlocal finished
        for _ in range(200):
            finished += 1
            await asyncio.sleep(0)
        await snapshots.enough()

    desk, snapshots = Desk(), Snapshots(lambda _: finished, wanted=5)
    claimed = await desk.claim()
    reporter = await desk.report(claimed, snapshots, work())
    assert 1 <= reporter.stored.record.rev - claimed.record.rev <= snapshots.count
    assert reporter.stored.record.progress_details.nodes_completed == 200


async def test_a_defect_of_the_progress_does_not_cost_the_lease(caplog: pytest.LogCaptureFixture) -> None:
    """The lease is renewed although the progress can no longer be computed, and the log says so once."""
    desk = Desk()
    claimed = await desk.claim()

    def observe() -> Snapshot:
        raise OverflowError("a defect")

    async def a_write() -> None:
        with desk.signal.listen(job_topic(claimed.record.tenant, claimed.record.job_id)) as bell:
            assert await bell.wait(20)

    reporter = await desk.report(claimed, observe, a_write(), lease_s=0.1)
    assert reporter.stored.record.rev > claimed.record.rev
    assert caplog.text.count("OverflowError: a defect") == 1


async def test_a_lease_is_renewed_without_progress() -> None:
    """The lease of a job without progress, such as a long node, is renewed."""
    desk = Desk()
    claimed = await desk.claim()

    async def two_writes() -> None:
        with desk.signal.listen(job_topic(claimed.record.tenant, claimed.record.job_id)) as bell:
            for _ in range(2):
                assert await bell.wait(20)

    reporter = await desk.report(claimed, lambda: None, two_writes(), lease_s=0.1)
    assert reporter.stored.record.rev >= claimed.record.rev + 2
    assert reporter.stored.record.progress == 0


async def test_a_cancel_request_is_reported_once() -> None:
    """A cancel request is reported once, whether the poll or a lost write detects it."""
    desk, snapshots = Desk(), Snapshots(lambda count: count, wanted=5)
    claimed = await desk.claim()
    now = desk.clock.now()
    await desk.jobs.evolve("default", claimed.record.job_id, lambda record: record.cancel(now=now))
    await desk.report(claimed, snapshots, snapshots.enough(), cancel_poll_s=INTERVAL_S)
    assert (desk.cancels, desk.fences) == (1, 0)


async def test_a_lost_job_is_detected_and_not_written() -> None:
    """A reporter whose job belongs to another attempt is fenced and leaves the record unchanged."""
    desk, snapshots = Desk(), Snapshots(lambda count: count, wanted=1)
    claimed = await desk.claim()
    taken = await desk.jobs.evolve(
        "default",
        claimed.record.job_id,
        lambda record: record.release(attempt=1, now=desk.clock.now()).claim(
            worker="w2", now=desk.clock.now(), lease_s=60
        ),
    )
    reporter = await desk.report(claimed, snapshots, snapshots.enough())
    assert (reporter.is_fenced, desk.fences, desk.cancels) == (True, 1, 0)
    assert (await desk.jobs.read("default", claimed.record.job_id)).record == taken.record


async def test_refused_writes_are_retried() -> None:
    """Writes that the bucket refuses are retried, because a policy may be corrected while the job runs."""
    desk, snapshots = Desk(), Snapshots(lambda _: 6, wanted=6)
    claimed = await desk.claim()
    desk.objects.refusals = 2
    reporter = await desk.report(claimed, snapshots, snapshots.enough())
    assert (reporter.stored.record.progress, desk.objects.refusals) == (3, 0)


async def test_the_default_holds_the_outputs_of_an_ordinary_large_job() -> None:
    """The default limit of a record holds a thousand outputs with long names, and all text that is repeated in it."""
    texts = UploadPolicy().all_inline_text_bytes // 1_000
    outputs = tuple(
        Output(
            filename=NAME.format(number),
            subfolder="renders/2026-11-28",
            type="image",
            node_id="12:5:3",
            key=f"tenants/default/jobs/job_01JABCDEFGHJKMNPQRSTVWXYZ0/outputs/1/{number}/{NAME.format(number)}",
            size_bytes=12_345_678,
            content_type="image/png",
            sha256="a" * 64,
            width=1_024,
            height=1_024,
            text="t" * texts,
        )
        for number in range(1_000)
    )
    record = a_job().model_copy(update={"outputs": outputs})
    assert ReportPolicy().checked(record) is record

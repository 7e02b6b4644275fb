"""The cost of each phase of a job's life at the bucket, for docs/explanation/performance.md and its tests.

Only the bucket and the clock are not the product's own: the bucket is in memory and counts, and each phase sets the
clock. The engine is the lite one. Caches are warm, and the worker writes no progress by itself, because a progress
write is a phase.
"""

import asyncio
import base64
import itertools
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from infra.compose.reaper import reaper
from infra.settings import Settings
from storage.clock import ManualClock
from storage.jobs.models import ProgressDetails
from storage.jobs.store import StoredJob
from storage.launcher import NoLauncher
from storage.tombstone import LIFE
from tests.support.api_server import BLUE, PNG, Api, running_api
from tests.support.counted_bucket import Cost, CountedBucket
from tests.support.post import Post
from tests.support.records import CREATED
from tests.support.workbench import Bench, quick_policy, serve_once, workbench
from workers.reporter import Reporter, ReportPolicy, Snapshot

LONG_S = 3600.0
OBSERVATIONS = 5
TWO_OUTPUTS = BLUE | {"3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "other"}}}
WITH_MEDIUM: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "same"}},
}
MEDIA = [{"name": "a.png", "data": base64.b64encode(PNG).decode()}]

KEYED = {"idempotency-key": "once"}


class Phase(StrEnum):
    """A phase; `CLAIM` is part of each `RUN`. Events that are due together share the LIST that `WEBHOOK` has for one
    alone."""

    SUBMIT = "POST /v1/jobs"
    SUBMIT_MEDIUM = "POST /v1/jobs with a medium in base64"
    SUBMIT_KEYED = "POST /v1/jobs with an Idempotency-Key"
    REPEAT = "the same again"
    RUN = "claim, run, one output, conclude"
    RUN_TWO = "the same with two outputs"
    RUN_MEDIUM = "the same with an input medium"
    CLAIM = "of these, the claim"
    PROGRESS = "a write of progress"
    LOG = "a write of the log, while the job runs"
    WEBHOOK = "a webhook: its outbox entry, a LIST of what is due, its delivery"
    LOOK = "GET /v1/jobs/{id}"
    PAGE = "GET /v1/jobs, a page of 2"
    IDLE = "an idle worker's poll of the queue"
    AHEAD = "a busy worker's poll of the queue, every 5 s"
    SWEEP = "a quiet pass of the reaper"
    OUTBOX = "a poll of the outbox, where nothing is due"
    REMOVAL = "removal when its time is over, and of its tombstone 30 days later"


async def measured_phases() -> dict[Phase, Cost]:
    clock = ManualClock(CREATED)
    bucket = CountedBucket(clock)
    policy = quick_policy(interval_s=LONG_S, cancel_poll_s=LONG_S)
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-phases-") as folder:
        async with running_api(bucket, clock) as api, workbench(Path(folder), bucket, policy, clock) as bench:
            scene = _Scene(bucket, clock, api, bench)
            costs = await scene.end_of_life() | await scene.lives() | await scene.reads()
    costs |= await _webhook()
    return {phase: costs[phase] for phase in Phase}


@dataclass(frozen=True, slots=True)
class _Scene:
    bucket: CountedBucket
    clock: ManualClock
    api: Api
    bench: Bench

    async def end_of_life(self) -> dict[Phase, Cost]:
        """Measure the sweeps for the first job, which is alone in the bucket."""
        await self._submit({"workflow": BLUE})
        await self._run()
        quiet = await self._sweep()
        self._pass_time(timedelta(days=8))
        removal = await self._sweep() - quiet
        self._pass_time(LIFE)
        return {Phase.SWEEP: quiet, Phase.REMOVAL: removal + await self._sweep() - quiet}

    async def lives(self) -> dict[Phase, Cost]:
        """Measure each submission and the run of its job."""
        for document in ({"workflow": BLUE}, {"workflow": WITH_MEDIUM, "media": MEDIA}, {"workflow": TWO_OUTPUTS}):
            await self._submit(document)
            await self._run()  # the first run of a shape fills the caches
        return {
            Phase.SUBMIT: await self._submit({"workflow": BLUE}),
            Phase.RUN: await self._run(),
            Phase.SUBMIT_MEDIUM: await self._submit({"workflow": WITH_MEDIUM, "media": MEDIA}),
            Phase.RUN_MEDIUM: await self._run(),
            Phase.SUBMIT_KEYED: await self._submit({"workflow": TWO_OUTPUTS}, KEYED),
            Phase.REPEAT: await self._submit({"workflow": TWO_OUTPUTS}, KEYED),
            Phase.RUN_TWO: await self._run(),
        } | await self._written_meanwhile()

    async def reads(self) -> dict[Phase, Cost]:
        jobs = (await self.api.client.get("/v1/jobs?limit=1")).json()["jobs"]
        await self._taken()
        await self.api.client.get(f"/v1/jobs/{jobs[0]['job_id']}")
        look = await self._taken()
        await self.api.client.get("/v1/jobs?limit=2")
        page = await self._taken()
        idle = await self._run()
        await self.bench.stores.queue.look("default")
        return {Phase.LOOK: look, Phase.PAGE: page, Phase.IDLE: idle, Phase.AHEAD: await self._taken()}

    async def _written_meanwhile(self) -> dict[Phase, Cost]:
        """Measure a claim and the worker's writes while the job runs."""
        await self._submit({"workflow": BLUE})
        stored = await self.bench.stores.queue.claim("default", "w")
        claim = await self._taken()
        assert stored is not None
        stored = await self._report(stored)
        progress = await self._taken()
        await self.bench.stores.logs.write(stored.record.tenant, stored.record.job_id, 1, ["a line"])
        return {Phase.CLAIM: claim, Phase.PROGRESS: progress, Phase.LOG: await self._taken()}

    async def _report(self, stored: StoredJob) -> StoredJob:
        """Report one snapshot with the worker's own reporter, which writes it once however often it observes it."""
        snapshot = Snapshot(42, ProgressDetails(current_node="2", nodes_completed=1, nodes_total=2, step="12/49"), ())
        observations, enough = itertools.count(1), asyncio.Event()

        def observe() -> Snapshot:
            if next(observations) >= OBSERVATIONS:
                enough.set()
            return snapshot

        policy = ReportPolicy(interval_s=0.01, cancel_poll_s=LONG_S, lease_s=LONG_S)
        reporter = Reporter(
            self.bench.jobs, stored, self.clock, policy, observe=observe, on_stop=_never, on_fenced=_never
        )
        reporting = asyncio.create_task(reporter.run(self.bench.signal))
        async with asyncio.timeout(60):
            await enough.wait()
        reporter.stop()
        await reporting
        return reporter.stored

    async def _submit(self, document: dict[str, Any], headers: dict[str, str] | None = None) -> Cost:
        await self._taken()
        answer = await self.api.client.post("/v1/jobs", json=document, headers=headers)
        assert answer.is_success, answer.text
        return await self._taken()

    async def _run(self) -> Cost:
        await self._taken()
        await serve_once(self.bench.worker)
        return await self._taken()

    async def _sweep(self) -> Cost:
        await self._taken()
        await reaper(Settings(bucket="tests"), self.bench.stores, NoLauncher()).sweep()
        return await self._taken()

    async def _taken(self) -> Cost:
        """Return the cost after the deletes that follow the commits."""
        for stores in (self.api.stores, self.bench.stores):
            await stores.jobs.settled()
        return self.bucket.take()

    def _pass_time(self, span: timedelta) -> None:
        self.clock.set(self.clock.now() + span)


def _never(_: object = None) -> None:
    raise AssertionError("this job was cancelled or fenced")


async def _webhook() -> dict[Phase, Cost]:
    """Measure what a webhook adds to a job's end, and its delivery to a healthy receiver."""
    clock = ManualClock(CREATED)
    bucket = CountedBucket(clock)
    post = Post(bucket, clock)
    await post.completed("completed")
    await post.send()
    await post.stores.jobs.settled()
    bucket.take()
    await post.send()
    due = bucket.take()
    await post.completed(webhook_url=None)
    await post.stores.jobs.settled()
    silent = bucket.take()
    await post.completed("completed")
    await post.send()
    await post.stores.jobs.settled()
    assert post.receiver.types() == ["completed"] * 2
    return {Phase.OUTBOX: due, Phase.WEBHOOK: bucket.take() - silent}

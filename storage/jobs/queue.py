"""Claiming: which job a worker runs next. The queue's keys are an index; the claim itself is a write to job.json.

A claim takes three rounds: LIST; the record and the workflow, and at the same time the timer of the lease and the index
key of the running job; the conditional write.

Candidates come in the order of their keys: higher priority first, then older first. Losers of a conditional
write are slow on some servers, so a worker that lost a race waits a moment and then, until it wins again, takes a
random one among the first few of the best priority instead of the very first.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.concurrency import gather
from storage.errors import JobNotFound, PreconditionFailed, RecordUnreadable
from storage.index_keys import ListEntry, QueueEntry, queue_prefix
from storage.jobs.models import Runtime
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import YOUNG, JobStore, KeysAhead, StoredJob
from storage.timers import Timer

logger = logging.getLogger(__name__)

CANDIDATES = 20
"""Queue keys of one LIST. If none of them can be claimed, the next ones are tried."""

BACKOFF_S = 0.02
MAX_BACKOFF_S = 1.0
"""After the first lost race and at most: doubled a loss, then drawn at random from nothing to that."""


@dataclass(frozen=True, slots=True)
class _Claimant:
    worker: str
    runtime: Runtime | None


class JobQueue:
    """`lease_s`: how long a claim is believed without a sign of life."""

    def __init__(
        self, jobs: JobStore, objects: ObjectStore, clock: Clock, *, lease_s: float, chance: random.Random | None = None
    ) -> None:
        self._jobs = jobs
        self._objects = objects
        self._clock = clock
        self._lease_s = lease_s
        self._chance = chance or random.Random()  # noqa: S311  spreads load, guards nothing
        self._losses = 0

    async def claim(self, pool: str, worker: str, runtime: Runtime | None = None) -> StoredJob | None:
        """The best queued job, now running under this worker's lease; None if nothing is claimable."""
        claimant = _Claimant(worker, runtime)
        after = ""
        while True:
            page = await self._objects.list(queue_prefix(pool), after=after, limit=CANDIDATES)
            claimed = await self._claim_one(await self._entries(page.keys), claimant)
            if claimed is not None or not page.more:
                return claimed
            after = page.keys[-1]

    async def peek(self, pool: str) -> JobRecord | None:
        """The job that would be claimed first, by the first queue key."""
        page = await self._objects.list(queue_prefix(pool), limit=1)
        try:
            entry = QueueEntry.parse(page.keys[0])
            record = (await self._jobs.read(entry.tenant, entry.job_id)).record
        except (IndexError, ValueError, JobNotFound, RecordUnreadable):
            return None
        return record if record.status is Status.QUEUED else None

    async def _claim_one(self, candidates: list[QueueEntry], claimant: _Claimant) -> StoredJob | None:
        while candidates:
            claimed = await self._try(candidates.pop(self._choice(candidates)), claimant)
            if claimed is not None:
                return claimed
        return None

    def _choice(self, candidates: list[QueueEntry]) -> int:
        """The first; while others are at work, a random one of the same priority."""
        if self._losses == 0:
            return 0
        return self._chance.choice([n for n, one in enumerate(candidates) if one.priority == candidates[0].priority])

    async def _entries(self, found: Sequence[str]) -> list[QueueEntry]:
        entries = []
        for key in found:
            try:
                entries.append(QueueEntry.parse(key))
            except ValueError:
                await self._objects.delete(key)
        return entries

    async def _try(self, entry: QueueEntry, claimant: _Claimant) -> StoredJob | None:
        """Claim the job of this queue key; None if the key is stale or another worker was first."""
        ahead = self._ahead(entry)
        try:
            stored = await self._read(entry, ahead)
        except JobNotFound:
            if self._clock.now() - entry.created_at > YOUNG:
                await self._objects.delete(entry.key)
            stored = None
        except RecordUnreadable as error:
            logger.warning("the queue goes on with the next job: %s", error)
            stored = None
        claimed = None if stored is None else await self._take(stored, entry, claimant, ahead)
        if claimed is None:
            self._jobs.withdraw(ahead)
        return claimed

    def _ahead(self, entry: QueueEntry) -> KeysAhead:
        """The keys of the claim, as far as the queue key tells them.

        They cost requests for nothing if the race is lost: while races are lost, they wait for the record.
        """
        now = self._clock.now()
        due = now + timedelta(seconds=self._lease_s)
        timer = Timer.new(due, "job", entry.tenant, entry.job_id, armed_at=now, lane="active")
        running = ListEntry(entry.created_at, entry.job_id, entry.attempt + 1).key(entry.tenant, Status.RUNNING)
        return KeysAhead(timer, frozenset({running}), is_spent=self._losses > 0)

    async def _read(self, entry: QueueEntry, ahead: KeysAhead) -> StoredJob:
        reading = self._jobs.read_with_workflow(entry.tenant, entry.job_id)
        if ahead.is_spent:
            return await reading
        found = await gather(reading, *(self._objects.put(key, b"") for key in sorted(ahead.keys)))
        assert isinstance(found[0], StoredJob)  # noqa: S101  the first one is the read
        return found[0]

    async def _take(self, stored: StoredJob, entry: QueueEntry, by: _Claimant, ahead: KeysAhead) -> StoredJob | None:
        record, now = stored.record, self._clock.now()
        if record.outdates(Status.QUEUED, entry.attempt):
            await self._objects.delete(entry.key)
            return None
        if record.status is not Status.QUEUED:
            return None  # its worker may be giving it back right now: the queue key comes before that commit
        claim = record.claim(worker=by.worker, now=now, lease_s=self._lease_s, runtime=by.runtime)
        try:
            claimed = await self._jobs.advance(stored, claim, ahead=ahead)
        except PreconditionFailed:
            self._losses += 1
            await asyncio.sleep(self._chance.uniform(0, min(BACKOFF_S * 2**self._losses, MAX_BACKOFF_S)))
            return None
        self._losses = max(0, self._losses - 1)
        return replace(claimed, workflow=stored.workflow)

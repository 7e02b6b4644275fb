"""Claiming: which job a worker runs next. The queue's keys are hints; the claim itself is a write to job.json.

Candidates come in the order of their keys: higher priority first, then older first. Losers of a conditional
write are slow on some servers, so a worker that lost a race waits a moment and then, until it wins again, takes a
random one among the first few of the best priority instead of the very first.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.errors import JobNotFound, PreconditionFailed, RecordUnreadable
from storage.hint_keys import QueueEntry, queue_prefix
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import YOUNG_HINT, JobStore, StoredJob
from storage.jobs.values import Runtime

logger = logging.getLogger(__name__)

CANDIDATES = 20
"""Hints that one LIST brings. Where none of them can be claimed, the next ones are looked at."""

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
        """The job that would be claimed first, as far as the first hint tells."""
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
        """Claim the job that this hint names; None if it is stale or another worker was first."""
        try:
            stored = await self._jobs.read(entry.tenant, entry.job_id)
        except JobNotFound:
            if self._clock.now() - entry.created_at > YOUNG_HINT:
                await self._objects.delete(entry.key)
            return None
        except RecordUnreadable as error:
            logger.warning("the queue goes on with the next job: %s", error)
            return None
        if stored.record.outdates(Status.QUEUED, entry.attempt):
            await self._objects.delete(entry.key)
            return None
        if stored.record.status is not Status.QUEUED:
            return None  # its worker may be giving it back right now: the hint comes before that commit
        return await self._take(stored, claimant)

    async def _take(self, stored: StoredJob, by: _Claimant) -> StoredJob | None:
        now = self._clock.now()
        claim = stored.record.claim(worker=by.worker, now=now, lease_s=self._lease_s, runtime=by.runtime)
        try:
            claimed = await self._jobs.advance(stored, claim)
        except PreconditionFailed:
            self._losses += 1
            await asyncio.sleep(self._chance.uniform(0, min(BACKOFF_S * 2**self._losses, MAX_BACKOFF_S)))
            return None
        self._losses = max(0, self._losses - 1)
        return claimed

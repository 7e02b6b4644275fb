"""Claiming: which job a worker runs next. The queue's keys are hints; the claim itself is a write to job.json.

Candidates come in the order of their keys: higher priority first, then older first. Losers of a conditional
write are slow on some servers, so a worker that lost a race, or sees that others are at work, tries a
random one among the first few instead of the very first.
"""

import random
from collections.abc import Sequence

from storage import keys
from storage.clock import Clock
from storage.errors import JobNotFound, PreconditionFailed
from storage.jobs import YOUNG_HINT, JobStore, StoredJob
from storage.keys import QueueEntry
from storage.objects import ObjectStore
from storage.record import Status

CANDIDATES = 20
"""Hints that one LIST brings. Where none of them can be claimed, the next ones are looked at."""


class JobQueue:
    """`lease_s`: how long a claim is believed without a sign of life."""

    def __init__(self, jobs: JobStore, objects: ObjectStore, clock: Clock, *, lease_s: float) -> None:
        self._jobs = jobs
        self._objects = objects
        self._clock = clock
        self._lease_s = lease_s
        self._random = random.Random()  # noqa: S311  spreads load, guards nothing

    async def claim(self, pool: str, worker: str) -> StoredJob | None:
        """The best queued job, now running under this worker's lease; None if nothing is claimable."""
        after = ""
        while True:
            page = await self._objects.list(keys.queue_prefix(pool), after=after, limit=CANDIDATES)
            claimed = await self._claim_one(await self._entries(page.keys), worker)
            if claimed is not None or not page.more:
                return claimed
            after = page.keys[-1]

    async def _claim_one(self, candidates: list[QueueEntry], worker: str) -> StoredJob | None:
        while candidates:
            claimed = await self._try(candidates.pop(0), worker)
            if claimed is not None:
                return claimed
            self._spread(candidates)
        return None

    async def _entries(self, found: Sequence[str]) -> list[QueueEntry]:
        entries = []
        for key in found:
            try:
                entries.append(keys.parse_queue_key(key))
            except ValueError:
                await self._objects.delete(key)
        return entries

    async def _try(self, entry: QueueEntry, worker: str) -> StoredJob | None:
        """Claim the job that this hint names; None if it is stale or another worker was first."""
        try:
            stored = await self._jobs.read(entry.tenant, entry.job_id)
        except JobNotFound:
            if self._clock.now() - entry.created_at > YOUNG_HINT:
                await self._objects.delete(entry.key)
            return None
        if stored.record.status.is_terminal or stored.record.attempt > entry.attempt:
            await self._objects.delete(entry.key)
            return None
        if stored.record.status is not Status.QUEUED:
            return None  # its worker may be giving it back right now: the hint comes before that commit
        claim = stored.record.claim(worker=worker, now=self._clock.now(), lease_s=self._lease_s)
        try:
            return await self._jobs.advance(stored, claim)
        except PreconditionFailed:
            return None

    def _spread(self, candidates: list[QueueEntry]) -> None:
        """After a lost race: continue with a random one among the next few of the same priority."""
        peers = [n for n, entry in enumerate(candidates) if entry.priority == candidates[0].priority]
        if peers:
            candidates.insert(0, candidates.pop(self._random.choice(peers)))

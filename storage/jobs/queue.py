"""Claims the job that a worker runs next. The queue's keys are an index; the claim itself is a write to job.json.

A claim takes three rounds of requests: the LIST; the record, the workflow, the timer of the lease and the index key of
the running job; the conditional write. A worker that still runs another job does the first two ahead: it reads a
`Candidate`, which keeps no other worker from the job, and takes it later by the write alone.

Candidates are ordered by key: higher priority first, then older first. After a lost race a worker backs off and, until
it wins again, picks a random candidate of the best priority instead of the first. One that lost a job which it had read
ahead does so for its next `SPREAD_FOR` candidates, since the others read ahead as well.

A queue key is written before its record. One without a record costs a claim two reads; keys of the claim are written
ahead again once a record was found.
"""

import asyncio
import logging
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from storage.bucket.objects import KeyPage, ObjectStore
from storage.clock import Clock
from storage.concurrency import gather
from storage.errors import JobNotFound, PreconditionFailed, RecordUnreadable
from storage.index_keys import ListEntry, QueueEntry, queue_prefix
from storage.jobs.index import queue_key
from storage.jobs.models import Runtime
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import JobStore, StoredJob
from storage.jobs.timers import YOUNG, KeysAhead
from storage.timers import Timer

logger = logging.getLogger(__name__)

CANDIDATES = 20
"""Queue keys per LIST. If none of them can be claimed, the next page is tried."""

SPREAD_FOR = 20
"""How many candidates are picked at random after one was lost, so that workers do not all prepare the same job."""

BACKOFF_S = 0.02
MAX_BACKOFF_S = 1.0
"""Exponential backoff after lost races, in seconds, with full jitter: the base, doubled per loss, and its maximum."""


@dataclass(frozen=True, slots=True)
class _Claimant:
    worker: str
    runtime: Runtime | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A queued job that was read and not claimed. Its claim fails if the record has changed since."""

    entry: QueueEntry
    stored: StoredJob
    ahead: KeysAhead

    @property
    def record(self) -> JobRecord:
        return self.stored.record


class JobQueue:
    """`lease_s`: seconds for which a claim is valid without a renewal."""

    def __init__(
        self, jobs: JobStore, objects: ObjectStore, clock: Clock, *, lease_s: float, chance: random.Random | None = None
    ) -> None:
        self._jobs = jobs
        self._objects = objects
        self._clock = clock
        self._lease_s = lease_s
        self._chance = chance or random.Random()  # noqa: S311  spreads load, guards nothing
        self._losses = 0
        self._spread_left = 0
        self._was_missing = False
        """Whether the last key that was read had no record: keys of the next claim would often be wasted."""

    async def claim(self, pool: str, worker: str, runtime: Runtime | None = None) -> StoredJob | None:
        """Claim the best queued job under this worker's lease; return None if no job can be claimed."""
        claimant = _Claimant(worker, runtime)
        after, more = "", True
        while more:
            page = await self._objects.list(queue_prefix(pool), after=after, limit=CANDIDATES)
            claimed = await self._claim_one(await self._entries(page.keys), claimant)
            if claimed is not None:
                return claimed
            # Every key of this page was stale or lost; the jobs behind them must not starve.
            after, more = page.keys[-1] if page.keys else "", page.more
        return None

    async def look(self, pool: str) -> list[QueueEntry]:
        """Return the first page of the queue, best first."""
        page = await self._objects.list(queue_prefix(pool), limit=CANDIDATES)
        return await self._entries(page.keys)

    async def candidate(self, entries: list[QueueEntry]) -> Candidate | None:
        """Read the job that would be claimed first, and write the keys of its claim; None if none is queued."""
        entries = list(entries)
        self._spread_left = max(0, self._spread_left - 1)
        while entries:
            entry = entries.pop(self._choice(entries))
            ahead = self._ahead(entry, is_written=not self._was_missing)
            stored = await self._found(entry, ahead)
            if stored is not None and await self._is_queued(stored, entry):
                return Candidate(entry, stored, ahead)
            self._jobs.withdraw(ahead)
        return None

    async def take(self, candidate: Candidate, worker: str, runtime: Runtime | None = None) -> StoredJob | None:
        """Claim a candidate by one conditional write; return None if its record has changed since it was read."""
        claimed = await self._take(candidate.stored, _Claimant(worker, runtime), candidate.ahead)
        if claimed is None:
            self._spread_left = SPREAD_FOR
            self.discard(candidate)
        return claimed

    def discard(self, candidate: Candidate) -> None:
        """Delete the timer of a claim that is not made, in the background."""
        self._jobs.withdraw(candidate.ahead)

    async def peek(self, pool: str) -> JobRecord | None:
        """Return the job of the first queue key; None if there is none or it is no longer queued."""
        page = await self._objects.list(queue_prefix(pool), limit=1)
        try:
            entry = QueueEntry.parse(page.keys[0])
            record = (await self._jobs.read(entry.tenant, entry.job_id)).record
        except (IndexError, ValueError, JobNotFound, RecordUnreadable):
            return None
        return record if record.status is Status.QUEUED else None

    async def first(self, pool: str) -> KeyPage:
        """Return the first thousand keys of the pool's queue, for `position`."""
        return await self._objects.list(queue_prefix(pool))

    @staticmethod
    def position(record: JobRecord, page: KeyPage) -> int | None:
        """Return the place of a queued job, 1 for the next one; None beyond the page. Stale keys count as jobs."""
        # The page may be older than the job's key, so the key is not looked up but placed.
        place = bisect_left(page.keys, queue_key(record)) + 1
        return None if place > len(page.keys) and page.more else place

    async def _claim_one(self, candidates: list[QueueEntry], claimant: _Claimant) -> StoredJob | None:
        while candidates:
            claimed = await self._try(candidates.pop(self._choice(candidates)), claimant)
            if claimed is not None:
                return claimed
        return None

    def _choice(self, candidates: list[QueueEntry]) -> int:
        """Return the index of the candidate to try next."""
        if self._losses == 0 and self._spread_left == 0:
            return 0
        # Rejected conditional writes are slow on some servers, so workers that compete spread out over the queue.
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
        """Claim the job of this queue key; return None if the key is stale or another worker was first."""
        # Keys of a lost race or of no job are wasted requests: then they are written only once the record was read.
        ahead = self._ahead(entry, is_written=self._losses == 0 and not self._was_missing)
        stored = await self._found(entry, ahead)
        claimed = None
        if stored is not None and await self._is_queued(stored, entry):
            claimed = await self._take(stored, claimant, ahead)
        if claimed is None:
            self._jobs.withdraw(ahead)  # no record will name the timer
        return claimed

    async def _found(self, entry: QueueEntry, ahead: KeysAhead) -> StoredJob | None:
        """Read the job of a queue key while the keys of its claim are written; None if it cannot be read."""
        try:
            stored = await self._read(entry, ahead)
        except JobNotFound as missing:
            self._was_missing = True
            # A queue key is written before its record, so a young one may precede a commit.
            is_old = self._clock.now() - entry.created_at > YOUNG
            if is_old and await self._jobs.is_missing(entry.tenant, entry.job_id, missing):
                await self._objects.delete(entry.key)
        except RecordUnreadable as error:
            logger.warning("the queue goes on with the next job: %s", error)
        else:
            self._was_missing = False
            return stored
        return None

    def _ahead(self, entry: QueueEntry, *, is_written: bool) -> KeysAhead:
        """Return the timer and index key of the claim that can be derived from the queue key alone."""
        now = self._clock.now()
        due = now + timedelta(seconds=self._lease_s)
        timer = Timer.new(due, "job", entry.tenant, entry.job_id, armed_at=now, lane="active")
        running = ListEntry(entry.created_at, entry.job_id, entry.attempt + 1).key(entry.tenant, Status.RUNNING)
        return KeysAhead(timer, frozenset({running}), is_spent=not is_written)

    async def _read(self, entry: QueueEntry, ahead: KeysAhead) -> StoredJob:
        reading = self._jobs.read_with_workflow(entry.tenant, entry.job_id)
        if ahead.is_spent:
            return await reading
        found = await gather(reading, *(self._objects.put(key, b"") for key in sorted(ahead.keys)))
        assert isinstance(found[0], StoredJob)  # noqa: S101  the first one is the read
        return found[0]

    async def _is_queued(self, stored: StoredJob, entry: QueueEntry) -> bool:
        record = stored.record
        if record.outdates(Status.QUEUED, entry.attempt):
            # Left in place, the stale key would cost each claim of the pool a GET.
            await self._objects.delete(entry.key)
            return False
        return record.status is Status.QUEUED  # else its worker may be releasing it: the key precedes that commit

    async def _take(self, stored: StoredJob, by: _Claimant, ahead: KeysAhead) -> StoredJob | None:
        now = self._clock.now()
        claim = stored.record.claim(worker=by.worker, now=now, lease_s=self._lease_s, runtime=by.runtime)
        try:
            claimed = await self._jobs.advance(stored, claim, ahead=ahead)
        except PreconditionFailed:
            self._losses += 1
            await asyncio.sleep(self._chance.uniform(0, min(BACKOFF_S * 2 ** min(self._losses, 10), MAX_BACKOFF_S)))
            return None
        self._losses = max(0, self._losses - 1)  # one win does not end the contention
        return replace(claimed, workflow=stored.workflow)

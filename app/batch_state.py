"""A batch as a response shows it, with its ETag, and the long polls for its changes."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakValueDictionary

from app.watch import Pace, Watch, Watched
from storage.batch_record import BatchRecord, StoredBatch
from storage.batches import BatchStore
from storage.jobs.record import Status
from storage.signal import Signal

POLL_S = 2.0
"""Seconds between two polls of a batch. A poll costs a GET and a LIST, and the jobs' signals do not reach it."""
READS_PER_S = 20
"""Polls per second over all batches."""


@dataclass(frozen=True)
class BatchState:
    """A batch and the statuses of its jobs by their ids, None for a removed job."""

    record: BatchRecord
    statuses: Mapping[str, Status | None]

    @cached_property
    def is_finished(self) -> bool:
        return all(status is None or status.is_terminal for status in self.statuses.values())

    @cached_property
    def etag(self) -> str:
        # Not the record's `rev`: the batch's timer changes the record, and nothing that a response shows.
        shown = (str(self.record.cancel_requested_at), *(status or "removed" for status in self.statuses.values()))
        return f'"{hashlib.sha256(" ".join(shown).encode()).hexdigest()[:32]}"'


async def read_state(batches: BatchStore, tenant: str, batch_id: str) -> BatchState:
    """Read the batch and its jobs' statuses. Raises as `BatchStore.read`."""
    return await state_of(batches, await batches.read(tenant, batch_id))


async def state_of(batches: BatchStore, stored: StoredBatch) -> BatchState:
    return BatchState(stored.record, await batches.statuses(stored.record))


class BatchWatch(Watch[BatchState]):
    def __init__(self, batches: BatchStore, signal: Signal) -> None:
        super().__init__(signal, Pace(POLL_S, READS_PER_S))
        self._batches = batches
        self._in_use = WeakValueDictionary[tuple[str, str, str], BatchState]()

    def interned(self, state: BatchState) -> BatchState:
        """Return the same object for equal states: a thousand requests may hold one while they wait."""
        return self._in_use.setdefault((state.record.tenant, state.record.batch_id, state.etag), state)

    async def until(self, state: BatchState, wanted: Callable[[BatchState], bool], timeout_s: float) -> BatchState:
        """Do as `changed` for a batch that was just read."""
        tenant, batch_id = state.record.tenant, state.record.batch_id
        watched = Watched(
            (tenant, batch_id),
            None,
            lambda: read_state(self._batches, tenant, batch_id),
            lambda one, other: one.etag != other.etag,
        )
        return await self.changed(watched, state, wanted, timeout_s)

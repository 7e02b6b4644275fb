"""The timer that each version of a job's record names, written before the version is committed.

A timer is chosen in three ways: a new job gets its first timer, a change keeps the current timer or gets a new one, and
a claim or an end may name one of `KeysAhead`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from storage.jobs.record import JobRecord, Status
from storage.timers import Lane, Timer

YOUNG = timedelta(minutes=10)
"""Age below which an index key without a record, or a timer that its record does not name, may belong to a writer that
is about to commit. Older ones are stale."""

ABANDONED = timedelta(hours=25)
"""Age at which a submission that never committed is deleted. It exceeds the lifetime of an Idempotency-Key, so no
repeat of the request can arrive later."""

EARLY = timedelta(minutes=1)
"""A timer that is due earlier than needed by more than this is replaced."""


def job_timer(record: JobRecord, due: datetime, *, now: datetime) -> Timer:
    lane: Lane = "retained" if record.status.is_terminal else "active"
    return Timer.new(due, "job", record.tenant, record.job_id, armed_at=now, lane=lane)


def with_first_timer(record: JobRecord) -> JobRecord:
    """Return the record with its first timer, armed at the job's creation."""
    due = min(record.due_at, record.created_at + ABANDONED)
    # The timer encodes created_at, from which the index keys of a job that never committed can be rebuilt.
    return record.model_copy(update={"timer": job_timer(record, due, now=record.created_at).key})


def timer_key(before: JobRecord, changed: JobRecord, *, now: datetime) -> str:
    """Return the key of the current timer if it still serves `changed`, else of a new one."""
    due = Timer.parse(before.timer).due if before.timer else None
    # A new lane or a much later time needs a new timer; a renewed lease does not, which saves a PUT and a DELETE.
    is_kept = changed.status is before.status or changed.status is Status.RUNNING
    if due is not None and is_kept and is_early_enough(due, changed):
        return before.timer
    return job_timer(changed, changed.due_at, now=now).key


def is_early_enough(due: datetime, record: JobRecord) -> bool:
    """Whether a timer is due neither late nor more than `EARLY` too early for the record."""
    # A running job's timer may be any amount too early: its handler leaves it while the lease is valid.
    return due <= record.due_at and (record.status is Status.RUNNING or record.due_at - due <= EARLY)


@dataclass(slots=True)
class KeysAhead:
    """A timer and index keys that are written before it is known whether a version needs them."""

    timer: Timer
    index: frozenset[str]
    is_spent: bool = False
    """Whether a commit was tried with the timer, or the timer was deleted. Each try has its own timer."""

    @property
    def keys(self) -> frozenset[str]:
        return self.index | {self.timer.key}

    def fits(self, changed: JobRecord, now: datetime) -> bool:
        """Whether the keys can serve `changed`."""
        # The sweep deletes an older timer that no record names, as that of a paused writer.
        is_young = now - self.timer.armed_at < YOUNG / 2
        return not self.is_spent and is_young and is_early_enough(self.timer.due, changed)

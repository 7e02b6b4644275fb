"""Keys that are hints: what they tell, how they are ordered, how they are read again.

    tenants/<tenant>/index/all/<entry>                  every job, newest first
    tenants/<tenant>/index/<status>/<entry>             the jobs of one status, newest first
    tenants/<tenant>/batches/<batch_id>/members/<entry> the jobs of a batch, with their status
    queue/<pool>/<entry>                                jobs to be claimed, best first
    running/<pool>/<entry>                              attempts that may have lost their worker
    deadlines/<entry>                                   what is to be looked at again, and when, soonest first
    due/<entry>                                         events to be delivered, and when, soonest first
    tenants/<tenant>/dead-letters/<entry>               events that were given up, newest first

A hint can be stale, duplicated or lost: `JobRecord.outdates` decides which one can still come true. So that the late
removal of an old hint cannot hit its successor, every hint that may come back has the attempt in its key.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Self

from storage.keys import check_segment

MIN_PRIORITY, MAX_PRIORITY = -999_999, 999_999

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END_OF_TIME_MS = 9_999_999_999_999

HOST_DIGITS = 8
"""Of an endpoint's hash, which belong to its host."""

_ID = r"[0-9a-f-]{36}"
INDEX_ENTRY = re.compile(rf"(?P<ms>\d{{13}})-(?P<job_id>{_ID})(-(?P<attempt>\d{{3,9}}))?")
"""The last segment of an index key; a list cursor is one of these."""
_MEMBER_ENTRY = re.compile(rf"(?P<job_id>{_ID})-(?P<attempt>\d{{3,9}})-(?P<status>[a-z]+)")
_QUEUE_KEY = re.compile(
    rf"queue/(?P<pool>[^/]+)/(?P<order>\d{{7}})-(?P<ms>\d{{13}})-(?P<job_id>{_ID})-(?P<attempt>\d{{3,9}})-(?P<tenant>[^/]+)"
)
_RUNNING_KEY = re.compile(rf"running/(?P<pool>[^/]+)/(?P<job_id>{_ID})-(?P<attempt>\d{{3,9}})-(?P<tenant>[^/]+)")
_DEADLINE_KEY = re.compile(
    r"deadlines/(?P<ms>\d{13})-(?P<kind>draft|job|batch|upload|key|test|endpoint)-(?P<id>[0-9a-f-]{16,64})-(?P<tenant>[^/]+)"
)


_DUE_KEY = re.compile(
    r"due/(?P<ms>\d{13})-(?P<endpoint>[0-9a-f]{24})-(?P<kind>job|batch|test)-(?P<id>[0-9a-f-]{36})"
    r"-(?P<sequence>\d{6})-(?P<turn>\d{3,9})-(?P<tenant>[^/]+)"
)
DEAD_LETTER_ENTRY = re.compile(r"(?P<ms>\d{13})-(?P<kind>job|batch|test)-(?P<id>[0-9a-f-]{36})-(?P<sequence>\d{6})")


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A row of a list. `attempt` is None in the list of all jobs, where a job never changes its place."""

    created_at: datetime
    job_id: str
    attempt: int | None

    def key(self, tenant: str, status: str | None) -> str:
        """An inverted time first, so that a LIST in key order is newest first."""
        attempt = "" if self.attempt is None else f"-{self.attempt:03d}"
        return index_prefix(tenant, status) + f"{_END_OF_TIME_MS - _ms(self.created_at):013d}-{self.job_id}{attempt}"

    @classmethod
    def parse(cls, key: str) -> Self:
        match = _matched(INDEX_ENTRY, key.rsplit("/", 1)[-1])
        attempt = match["attempt"]
        return cls(
            _time(_END_OF_TIME_MS - int(match["ms"])), match["job_id"], None if attempt is None else int(attempt)
        )


def index_prefix(tenant: str, status: str | None) -> str:
    return f"tenants/{check_segment(tenant)}/index/{status or 'all'}/"


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A job that waits. `attempt` counts the claims so far."""

    pool: str
    priority: int
    created_at: datetime
    tenant: str
    job_id: str
    attempt: int

    @property
    def key(self) -> str:
        """Higher priority first, then older first. One flat segment: an emptied folder costs a LIST time."""
        order = f"{MAX_PRIORITY - self.priority:07d}-{_ms(self.created_at):013d}"
        return queue_prefix(self.pool) + f"{order}-{self.job_id}-{self.attempt:03d}-{check_segment(self.tenant)}"

    @classmethod
    def parse(cls, key: str) -> Self:
        match = _matched(_QUEUE_KEY, key)
        return cls(
            pool=match["pool"],
            priority=MAX_PRIORITY - int(match["order"]),
            created_at=_time(int(match["ms"])),
            tenant=match["tenant"],
            job_id=match["job_id"],
            attempt=int(match["attempt"]),
        )


QUEUE = "queue/"


def queue_prefix(pool: str) -> str:
    return f"{QUEUE}{check_segment(pool)}/"


def running_prefix(pool: str) -> str:
    return f"{RUNNING}{check_segment(pool)}/"


@dataclass(frozen=True, slots=True)
class RunningEntry:
    """An attempt at a job that may need recovery."""

    pool: str
    tenant: str
    job_id: str
    attempt: int

    @property
    def key(self) -> str:
        return f"{running_prefix(self.pool)}{self.job_id}-{self.attempt:03d}-{check_segment(self.tenant)}"

    @classmethod
    def parse(cls, key: str) -> Self:
        match = _matched(_RUNNING_KEY, key)
        return cls(match["pool"], match["tenant"], match["job_id"], int(match["attempt"]))


RUNNING = "running/"


@dataclass(frozen=True, slots=True)
class MemberEntry:
    """A job of a batch and its status. What has one entry only is in that status: a new one is written first."""

    job_id: str
    attempt: int
    status: str

    def key(self, tenant: str, batch_id: str) -> str:
        return members_prefix(tenant, batch_id) + f"{self.job_id}-{self.attempt:03d}-{self.status}"

    @classmethod
    def parse(cls, key: str) -> Self:
        match = _matched(_MEMBER_ENTRY, key.rsplit("/", 1)[-1])
        return cls(match["job_id"], int(match["attempt"]), match["status"])


def members_prefix(tenant: str, batch_id: str) -> str:
    return f"tenants/{check_segment(tenant)}/batches/{check_segment(batch_id)}/members/"


Kind = Literal["draft", "job", "batch", "upload", "key", "test", "endpoint"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A job, batch, upload, Idempotency-Key, … that someone must look at when `due`. What is to be done, it tells.

    A draft is a job whose submission may have died before its commit. The key rounds up: whoever looks at its time
    finds that what counts in microseconds is due as well.
    """

    due: datetime
    kind: Kind
    tenant: str
    id: str

    @property
    def key(self) -> str:
        return f"{DEADLINES}{_ms_up(self.due):013d}-{self.kind}-{self.id}-{check_segment(self.tenant)}"

    @classmethod
    def parse(cls, key: str) -> Self:
        match = _matched(_DEADLINE_KEY, key)
        return cls(_time(int(match["ms"])), match["kind"], match["tenant"], match["id"])  # type: ignore[arg-type]


DEADLINES = "deadlines/"

EventKind = Literal["job", "batch", "test"]


@dataclass(frozen=True, slots=True)
class EventRef:
    """Which event: number `sequence` of a job or batch, or a test."""

    tenant: str
    kind: EventKind
    id: str
    sequence: int

    @property
    def event_id(self) -> str:
        """The CloudEvent's `id` and the `webhook-id`: the same however often it is delivered."""
        return f"evt_{self.id}_{self.sequence:06d}"


@dataclass(frozen=True, slots=True)
class DueEntry:
    """A pointer to an event that must be sent at `due`.

    `turn` keeps the keys of one event's pointers apart. The first pointer's turn is the `rev` of the commit that
    carries the event, so a retried commit writes another key, and dropping a stale pointer cannot hit the new one.

    `endpoint` is a hash of the receiver's URL: the pointers of a slow receiver can wait without a read of their jobs.
    It begins with the hash of its host, which other receivers may share.
    """

    due: datetime
    endpoint: str
    ref: EventRef
    turn: int = 0

    @property
    def host(self) -> str:
        return self.endpoint[:HOST_DIGITS]

    @property
    def key(self) -> str:
        ref = self.ref
        event = f"{ref.kind}-{ref.id}-{ref.sequence:06d}-{self.turn:03d}-{check_segment(ref.tenant)}"
        return f"{DUE}{_ms(self.due):013d}-{self.endpoint}-{event}"

    @classmethod
    def parse(cls, key: str) -> Self:
        match = _matched(_DUE_KEY, key)
        ref = EventRef(match["tenant"], match["kind"], match["id"], int(match["sequence"]))  # type: ignore[arg-type]
        return cls(_time(int(match["ms"])), match["endpoint"], ref, int(match["turn"]))


DUE = "due/"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was given up."""

    died_at: datetime
    ref: EventRef

    @property
    def key(self) -> str:
        ref = self.ref
        inverted = _END_OF_TIME_MS - _ms(self.died_at)
        return dead_letters_prefix(ref.tenant) + f"{inverted:013d}-{ref.kind}-{ref.id}-{ref.sequence:06d}"

    @classmethod
    def parse(cls, tenant: str, key: str) -> Self:
        match = _matched(DEAD_LETTER_ENTRY, key.rsplit("/", 1)[-1])
        ref = EventRef(tenant, match["kind"], match["id"], int(match["sequence"]))  # type: ignore[arg-type]
        return cls(_time(_END_OF_TIME_MS - int(match["ms"])), ref)


def dead_letters_prefix(tenant: str) -> str:
    return f"tenants/{check_segment(tenant)}/dead-letters/"


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(f"not a key of this kind: {text!r}")
    return match


def _ms(moment: datetime) -> int:
    """Whole milliseconds; in integers, since a float would not come back as the same time."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _ms_up(moment: datetime) -> int:
    return -((_EPOCH - moment) // timedelta(milliseconds=1))


def whole_ms(moment: datetime) -> datetime:
    """As a key that begins with a time keeps it."""
    return _time(_ms(moment))


def _time(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)

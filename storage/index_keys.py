"""Index keys: empty objects whose keys serve one query each with a LIST.

    tenants/<tenant>/index/all/<entry>                  every job, newest first
    tenants/<tenant>/index/<status>/<entry>             the jobs of one status, newest first
    tenants/<tenant>/index/batches/<entry>              the batches that were accepted, newest first
    tenants/<tenant>/batches/<batch_id>/members/<entry> the jobs of a batch, with their status
    queue/<pool>/<entry>                                queued jobs, best first
    outbox/<tenant>=<entry>                             events to deliver, by tenant, soonest first
    tenants/<tenant>/dead-letters/<entry>               events that were given up, newest first

An index key is a function of its record. It may be missing, stale or duplicated: readers check the record and delete
stale keys, and the handler of the record's timer (`storage.timers`) rewrites missing ones. A key that can recur
contains the attempt, so that the late deletion of an old key cannot hit its successor.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Self

from storage.keys import END_OF_TIME_MS, check_segment, ms_of, time_of

MIN_PRIORITY, MAX_PRIORITY = -999_999, 999_999

HOST_DIGITS = 8
"""The number of first digits of an endpoint that are the hash of its host."""

BATCHES = "batches"
"""The name of the list of batches, where the lists of jobs have a status."""

_ID = r"[0-9a-f-]{36}"
LIST_ENTRY = re.compile(rf"(?P<ms>\d{{13}})-(?P<job_id>{_ID})(-(?P<attempt>\d{{3,9}}))?")
"""The last segment of an index key; a list cursor is one of these."""
_MEMBER_ENTRY = re.compile(rf"(?P<job_id>{_ID})-(?P<attempt>\d{{3,9}})-(?P<status>[a-z]+)")
_QUEUE_KEY = re.compile(
    rf"queue/(?P<pool>[^/]+)/(?P<order>\d{{7}})-(?P<ms>\d{{13}})-(?P<job_id>{_ID})-(?P<attempt>\d{{3,9}})-(?P<tenant>[^/]+)"
)
_OUTBOX_KEY = re.compile(
    r"outbox/(?P<tenant>[^/=]+)=(?P<ms>\d{13})-(?P<endpoint>[0-9a-f]{24})-(?P<kind>job|batch|test)"
    r"-(?P<id>[0-9a-f-]{36})-(?P<sequence>\d{6})-(?P<generation>\d{3,9})"
)
DEAD_LETTER_ENTRY = re.compile(r"(?P<ms>\d{13})-(?P<kind>job|batch|test)-(?P<id>[0-9a-f-]{36})-(?P<sequence>\d{6})")


@dataclass(frozen=True, slots=True)
class ListEntry:
    """A row of a list. `attempt` is None in the lists of all jobs and of batches, where a row keeps its position.

    In the list of batches, `job_id` is the batch's id.
    """

    created_at: datetime
    job_id: str
    attempt: int | None

    def key(self, tenant: str, status: str | None) -> str:
        """Return the row's key in the list of a status, of `BATCHES`, or of all jobs."""
        # The inverted time comes first, so that a LIST in key order is newest first.
        attempt = "" if self.attempt is None else f"-{self.attempt:03d}"
        return list_prefix(tenant, status) + f"{inverted(ms_of(self.created_at))}-{self.job_id}{attempt}"

    @classmethod
    def parse(cls, key: str) -> Self:
        match = _matched(LIST_ENTRY, key.rsplit("/", 1)[-1])
        attempt = match["attempt"]
        return cls(
            time_of(END_OF_TIME_MS - int(match["ms"])), match["job_id"], None if attempt is None else int(attempt)
        )


def inverted(ms: int) -> str:
    """Return a time in milliseconds as the first part of a list's entry; one out of range is the nearest in it."""
    return f"{END_OF_TIME_MS - min(max(ms, 0), END_OF_TIME_MS):013d}"


def list_prefix(tenant: str, status: str | None) -> str:
    return f"tenants/{check_segment(tenant)}/index/{status or 'all'}/"


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A queued job. `attempt` counts the claims so far."""

    pool: str
    priority: int
    created_at: datetime
    tenant: str
    job_id: str
    attempt: int

    @property
    def key(self) -> str:
        """The queue key, which sorts by higher priority, then by age."""
        # One flat segment, since on SeaweedFS each emptied folder slows down a LIST.
        order = f"{MAX_PRIORITY - self.priority:07d}-{ms_of(self.created_at):013d}"
        return queue_prefix(self.pool) + f"{order}-{self.job_id}-{self.attempt:03d}-{check_segment(self.tenant)}"

    @classmethod
    def parse(cls, key: str) -> Self:
        match = _matched(_QUEUE_KEY, key)
        return cls(
            pool=match["pool"],
            priority=MAX_PRIORITY - int(match["order"]),
            created_at=time_of(int(match["ms"])),
            tenant=match["tenant"],
            job_id=match["job_id"],
            attempt=int(match["attempt"]),
        )


QUEUE = "queue/"


def queue_prefix(pool: str) -> str:
    return f"{QUEUE}{check_segment(pool)}/"


@dataclass(frozen=True, slots=True)
class MemberEntry:
    """A job of a batch and its status. A job with a single entry has that status, as a new entry is written first."""

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


EventKind = Literal["job", "batch", "test"]


@dataclass(frozen=True, slots=True)
class EventRef:
    """Identifies an event: number `sequence` of a job or batch, or a test event."""

    tenant: str
    kind: EventKind
    id: str
    sequence: int

    @property
    def event_id(self) -> str:
        """The CloudEvent's `id` and the `webhook-id`, the same in every delivery of the event."""
        return f"evt_{self.id}_{self.sequence:06d}"


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """Names an event that must be sent at `due`.

    `generation` distinguishes the entries of one event. The first is the `rev` of the commit with the event, so a
    retried commit writes another key, and the deletion of a stale entry cannot hit the new one.

    `endpoint` is a hash of the receiver's URL, so that entries of a slow receiver can wait without a GET of their jobs.
    It begins with the hash of the host, which other receivers may share.
    """

    due: datetime
    endpoint: str
    ref: EventRef
    generation: int = 0

    @property
    def host(self) -> str:
        return self.endpoint[:HOST_DIGITS]

    @property
    def key(self) -> str:
        ref = self.ref
        event = f"{ref.kind}-{ref.id}-{ref.sequence:06d}-{self.generation:03d}"
        # The tenant comes first, so that a LIST can skip the further entries of a tenant that has many.
        return f"{outbox_prefix(ref.tenant)}{ms_of(self.due):013d}-{self.endpoint}-{event}"

    @classmethod
    def parse(cls, key: str) -> Self:
        match = _matched(_OUTBOX_KEY, key)
        ref = EventRef(match["tenant"], match["kind"], match["id"], int(match["sequence"]))  # type: ignore[arg-type]
        return cls(time_of(int(match["ms"])), match["endpoint"], ref, int(match["generation"]))


OUTBOX = "outbox/"


def outbox_prefix(tenant: str) -> str:
    # One flat segment, as in the queue. A tenant's name has no `=`, so no prefix is the beginning of another.
    return f"{OUTBOX}{check_segment(tenant)}="


def behind_outbox_of(tenant: str) -> str:
    """Return a key that follows every outbox entry of the tenant and precedes those of the next."""
    return outbox_prefix(tenant) + "="  # the entries go on with a digit, which sorts before it


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event whose delivery was given up."""

    died_at: datetime
    ref: EventRef

    @property
    def key(self) -> str:
        ref = self.ref
        inverted = END_OF_TIME_MS - ms_of(self.died_at)
        return dead_letters_prefix(ref.tenant) + f"{inverted:013d}-{ref.kind}-{ref.id}-{ref.sequence:06d}"

    @classmethod
    def parse(cls, tenant: str, key: str) -> Self:
        match = _matched(DEAD_LETTER_ENTRY, key.rsplit("/", 1)[-1])
        ref = EventRef(tenant, match["kind"], match["id"], int(match["sequence"]))  # type: ignore[arg-type]
        return cls(time_of(END_OF_TIME_MS - int(match["ms"])), ref)


def dead_letters_prefix(tenant: str) -> str:
    return f"tenants/{check_segment(tenant)}/dead-letters/"


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(f"not a key of this kind: {text!r}")
    return match

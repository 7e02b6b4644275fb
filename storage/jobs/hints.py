"""Which hints a job has, by its record. The store writes them before a commit, and removes old ones after it."""

import hashlib

from storage.hint_keys import (
    HOST_DIGITS,
    Deadline,
    DueEntry,
    EventRef,
    IndexEntry,
    MemberEntry,
    QueueEntry,
    RunningEntry,
)
from storage.jobs.record import JobRecord, Status
from storage.jobs.values import JobEvent


def hints_of(record: JobRecord) -> frozenset[str]:
    """By these the job is found where it matters now: listed, claimed, recovered, counted, removed."""
    return frozenset(_hints(record))


def list_key(record: JobRecord) -> str:
    """Its row in the list of all jobs, which stays until the job is removed."""
    return IndexEntry(record.created_at, record.job_id, None).key(record.tenant, None)


def status_key(record: JobRecord, status: Status | None = None) -> str:
    """Its row in the list of its status, or of another one."""
    entry = IndexEntry(record.created_at, record.job_id, record.attempt)
    return entry.key(record.tenant, status or record.status)


def queue_key(record: JobRecord) -> str:
    return QueueEntry(record.pool, record.priority, record.created_at, record.tenant, record.job_id, record.attempt).key


def running_key(record: JobRecord) -> str:
    return RunningEntry(record.pool, record.tenant, record.job_id, record.attempt).key


def event_ref(record: JobRecord, event: JobEvent) -> EventRef:
    return EventRef(record.tenant, "job", record.job_id, event.sequence)


def endpoint_of(url: str) -> str:
    """A receiver's short name in keys: a hash of its host and port, then one of the whole URL.

    What follows `?` is often a token of one job, and makes no other receiver.
    """
    receiver = url.partition("#")[0].partition("?")[0]
    host = receiver.partition("://")[2].partition("/")[0].lower()
    return _hash(host, HOST_DIGITS) + _hash(receiver, 16)


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _hints(record: JobRecord) -> list[str]:
    hints = [status_key(record)]
    if record.batch_id is not None:
        member = MemberEntry(record.job_id, record.attempt, record.status)
        hints.append(member.key(record.tenant, record.batch_id))
    if record.status is Status.QUEUED:
        hints.append(queue_key(record))
    if record.status is Status.RUNNING:
        hints.append(running_key(record))
    if record.webhook_url is not None:
        endpoint = endpoint_of(record.webhook_url)
        hints += [DueEntry(event.time, endpoint, event_ref(record, event), event.rev).key for event in record.events]
    if (due := record.next_deadline) is not None:
        hints.append(Deadline(due, "job", record.tenant, record.job_id).key)
    return hints

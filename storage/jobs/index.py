"""The index keys of a job: a pure function of its record."""

import hashlib

from storage.index_keys import (
    HOST_DIGITS,
    EventRef,
    ListEntry,
    MemberEntry,
    OutboxEntry,
    QueueEntry,
)
from storage.jobs.models import JobEvent
from storage.jobs.record import JobRecord, Status


def index_keys(record: JobRecord) -> frozenset[str]:
    """Return all index keys except the row in the list of all jobs, which never changes."""
    return frozenset(_index_keys(record))


def list_key(record: JobRecord) -> str:
    """Return the job's row in the list of all jobs, which is kept until the job is removed."""
    return ListEntry(record.created_at, record.job_id, None).key(record.tenant, None)


def status_key(record: JobRecord, status: Status | None = None) -> str:
    """Return the job's row in the list of its status, or of `status`."""
    entry = ListEntry(record.created_at, record.job_id, record.attempt)
    return entry.key(record.tenant, status or record.status)


def queue_key(record: JobRecord) -> str:
    return QueueEntry(record.pool, record.priority, record.created_at, record.tenant, record.job_id, record.attempt).key


def event_ref(record: JobRecord, event: JobEvent) -> EventRef:
    return EventRef(record.tenant, "job", record.job_id, event.sequence)


def endpoint_of(url: str) -> str:
    """Return a receiver's id in keys: a hash of its host and port, then one of the URL without its query."""
    # The query is often a token of one job, so it does not make another receiver.
    receiver = url.partition("#")[0].partition("?")[0]
    host = receiver.partition("://")[2].partition("/")[0].lower()
    return _hash(host, HOST_DIGITS) + _hash(receiver, 16)


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _index_keys(record: JobRecord) -> list[str]:
    found = [status_key(record)]
    if record.batch_id is not None:
        member = MemberEntry(record.job_id, record.attempt, record.status)
        found.append(member.key(record.tenant, record.batch_id))
    if record.status is Status.QUEUED:
        found.append(queue_key(record))
    if record.webhook_url is not None:
        endpoint = endpoint_of(record.webhook_url)
        found += [OutboxEntry(event.time, endpoint, event_ref(record, event), event.rev).key for event in record.events]
    return found

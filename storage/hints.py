"""Which hints a job has, by its record. `storage.jobs` writes them before a commit, and removes old ones after it."""

from storage.hint_keys import Deadline, IndexEntry, MemberEntry, QueueEntry, RunningEntry
from storage.record import JobRecord, Status


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


def _hints(record: JobRecord) -> list[str]:
    hints = [status_key(record)]
    if record.batch_id is not None:
        member = MemberEntry(record.job_id, record.attempt, record.status)
        hints.append(member.key(record.tenant, record.batch_id))
    if record.status is Status.QUEUED:
        hints.append(queue_key(record))
    if record.status is Status.RUNNING:
        hints.append(running_key(record))
    if (due := record.next_deadline) is not None:
        hints.append(Deadline(due, "job", record.tenant, record.job_id).key)
    return hints

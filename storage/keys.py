"""The key layout, all of it. Nothing else in the product joins key strings.

    tenants/<tenant>/jobs/<job_id>/job.json             the record: the only truth
                                  /workflow.json        the graph as submitted, immutable
                                  /prompt.json          the graph as executed, by the last attempt
                                  /inputs/<nnn>         media of the submission
                                  /outputs/<attempt>/<nnnn>/<filename>
    tenants/<tenant>/index/<all|queued|running|completed|failed>/<entry>   hints for lists, newest first
    tenants/<tenant>/uploads/<upload_id>/upload.json    what was promised to the uploader
                                        /data           the bytes
    tenants/<tenant>/idempotency/<sha256>.json          which id stands for an Idempotency-Key
    tenants/<tenant>/runtimes/<shape>.json              recent run times of one workflow shape (a hint)
    queue/<pool>/<entry>                                hints for claiming, best job first; the entry names the tenant
    running/<pool>/<entry>                              hints for recovery: which attempts may have lost their worker
    engines/<pool>/object_info.json.gz                  node classes of the deployed engine
    probes/<nonce>                                      what `doctor` writes and removes

Rules that hold on AWS and on SeaweedFS: no key is a prefix of another, no empty segment, fixed-width
numbers, job ids are canonical UUIDs, no sibling folder whose name begins with another's, segments of at most 255 bytes.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

DEFAULT_TENANT = "default"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END_OF_TIME_MS = 9_999_999_999_999
MIN_PRIORITY, MAX_PRIORITY = -999_999, 999_999

_SAFE_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

INDEX_ENTRY = re.compile(r"(?P<ms>\d{13})-(?P<job_id>[A-Za-z0-9-]{1,64})")
"""The last segment of an index key; a list cursor is one of these."""
_QUEUE_KEY = re.compile(
    r"queue/(?P<pool>[^/]+)/(?P<order>\d{7})-(?P<ms>\d{13})-(?P<job_id>[0-9a-f-]{36})-(?P<attempt>\d{3,9})-(?P<tenant>[^/]+)"
)

_RUNNING_KEY = re.compile(r"running/(?P<pool>[^/]+)/(?P<job_id>[0-9a-f-]{36})-(?P<attempt>\d{3,9})-(?P<tenant>[^/]+)")


def check_segment(value: str) -> str:
    """A tenant, pool or id as it may stand in a key; ValueError otherwise."""
    if not _SAFE_SEGMENT.fullmatch(value) or ".." in value:
        raise ValueError(f"not usable in a key: {value!r}")
    return value


def job_prefix(tenant: str, job_id: str) -> str:
    """Everything of one job lies below this prefix."""
    return f"tenants/{check_segment(tenant)}/jobs/{check_segment(job_id)}/"


def record(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "job.json"


def workflow(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "workflow.json"


def prompt(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "prompt.json"


def input_medium(tenant: str, job_id: str, position: int) -> str:
    return job_prefix(tenant, job_id) + f"inputs/{position:03d}"


def output(tenant: str, job_id: str, attempt: int, position: int, filename: str) -> str:
    """`filename` must be a safe segment already (`workers.outputs` sanitises it)."""
    return job_prefix(tenant, job_id) + f"outputs/{attempt:03d}/{position:04d}/{filename}"


def upload_prefix(tenant: str, upload_id: str) -> str:
    return f"tenants/{check_segment(tenant)}/uploads/{check_segment(upload_id)}/"


def upload(tenant: str, upload_id: str) -> str:
    return upload_prefix(tenant, upload_id) + "upload.json"


def upload_data(tenant: str, upload_id: str) -> str:
    return upload_prefix(tenant, upload_id) + "data"


def idempotency(tenant: str, digest: str) -> str:
    return f"tenants/{check_segment(tenant)}/idempotency/{check_segment(digest)}.json"


def runtimes(tenant: str, shape: str) -> str:
    return f"tenants/{check_segment(tenant)}/runtimes/{check_segment(shape)}.json"


def object_info(pool: str) -> str:
    return f"engines/{check_segment(pool)}/object_info.json.gz"


PROBES = "probes/"


def probe(nonce: str) -> str:
    return PROBES + check_segment(nonce)


def index_prefix(tenant: str, status: str | None) -> str:
    return f"tenants/{check_segment(tenant)}/index/{status or 'all'}/"


def index(tenant: str, status: str | None, created_at: datetime, job_id: str) -> str:
    """An inverted time first, so that a LIST in key order is newest first."""
    return index_prefix(tenant, status) + f"{_END_OF_TIME_MS - _ms(created_at):013d}-{check_segment(job_id)}"


def parse_index_key(key: str) -> tuple[datetime, str]:
    """When the job was created, and its id; ValueError for anything else."""
    match = INDEX_ENTRY.fullmatch(key.rsplit("/", 1)[-1])
    if match is None:
        raise ValueError(f"not an index key: {key!r}")
    return _EPOCH + timedelta(milliseconds=_END_OF_TIME_MS - int(match["ms"])), match["job_id"]


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """What a queue key tells: enough to find the record and to order it, nothing to be believed.

    `attempt` counts the claims so far, so that a job which comes back to the queue gets a key of its own: a late
    removal of the old key cannot hit the new one.
    """

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
        job = f"{check_segment(self.job_id)}-{self.attempt:03d}-{check_segment(self.tenant)}"
        return queue_prefix(self.pool) + f"{order}-{job}"


def queue_prefix(pool: str) -> str:
    return f"queue/{check_segment(pool)}/"


def parse_queue_key(key: str) -> QueueEntry:
    """The inverse of `QueueEntry.key`; ValueError for anything else."""
    match = _QUEUE_KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"not a queue key: {key!r}")
    return QueueEntry(
        pool=match["pool"],
        priority=MAX_PRIORITY - int(match["order"]),
        created_at=_EPOCH + timedelta(milliseconds=int(match["ms"])),
        tenant=match["tenant"],
        job_id=match["job_id"],
        attempt=int(match["attempt"]),
    )


RUNNING = "running/"


@dataclass(frozen=True, slots=True)
class RunningEntry:
    """What a running key tells: which attempt at which job may need recovery."""

    pool: str
    tenant: str
    job_id: str
    attempt: int

    @property
    def key(self) -> str:
        entry = f"{check_segment(self.job_id)}-{self.attempt:03d}-{check_segment(self.tenant)}"
        return f"{RUNNING}{check_segment(self.pool)}/{entry}"


def parse_running_key(key: str) -> RunningEntry:
    """The inverse of `RunningEntry.key`; ValueError for anything else."""
    match = _RUNNING_KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"not a running key: {key!r}")
    return RunningEntry(match["pool"], match["tenant"], match["job_id"], int(match["attempt"]))


def _ms(moment: datetime) -> int:
    """Whole milliseconds; in integers, since a float would not come back as the same time."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)

"""The key layout: this file names the objects; `storage.index_keys` and `storage.timers` name the empty ones.

    tenants/<tenant>/jobs/<job_id>/job.json             the record: the only truth
                                  /workflow.json        the graph as submitted, immutable
                                  /editor.json          the editor's file, if the job was submitted as one
                                  /values.json          the inputs, if they are too long for the record
                                  /inputs/<nnn>         input files of the submission
                                  /outputs/<attempt>/<nnnn>/<filename>
                                  /logs/<attempt>.txt   the engine's log
                                  /live/<attempt>       the newest preview, while the job is watched
                                  /deliveries/<nnnnnn>.json   the delivery of an event
                                  /webhook_secret       the job's own signing secret, if it has one
                                  /partner_key          the sealed key for partner nodes, until the job ends
    tenants/<tenant>/batches/<batch_id>/batch.json      the jobs of a batch, and whether they are accepted
                                      /inputs/<nnn>     input files that all of them use
                                      /deliveries/<nnnnnn>.json
                                      /webhook_secret   the batch's own signing secret, if it has one
    tenants/<tenant>/tests/<test_id>/deliveries/<nnnnnn>.json   the delivery of a test event
    tenants/<tenant>/endpoints/<hash>.json              the health of a webhook receiver
    tenants/<tenant>/uploads/<upload_id>/upload.json    the declared size and type of an upload
                                        /data           the bytes
                                        /uses/<job_id>  a job that reads them
                                        /assets/<asset_id>  an asset that refers to them
    tenants/<tenant>/assets/<asset_id>/asset.json       a named reference to the bytes of an upload
                                      /uses/<job_id>    a job that reads them
    tenants/<tenant>/asset-hashes/<blake3>/<name hash>-<asset_id>     the assets with these bytes
    tenants/<tenant>/asset-names/<name hash>/<inverted ms>-<asset_id>   the assets of this name, newest first
    tenants/<tenant>/bytes.json                         the bytes that the tenant sent today, if they are limited
    tenants/<tenant>/idempotency/<sha256>.json          the id that an Idempotency-Key has claimed
    tenants/<tenant>/runtimes/<shape>.json              recent run times of one workflow shape
    api-keys/<kid>.json                                 an API key's hash, tenant and scopes
    engines/<pool>/engine.json.gz                       node classes of the deployed engine
                  /worker.json                          the machine of the pool's last worker
                  /starts.json                          the results of the engine's latest starts
                  /attention.json                       earlier choices of attention, by image, GPU and driver
                  /use/<nn>.json                        how long some worker's engine computed and waited
    tickets/<pool>/<ticket>                             a ticket that can be withdrawn; empty
    probes/<nonce>                                      test objects that `doctor` writes and removes

Rules that hold on AWS and on SeaweedFS: no key is a prefix of another, no empty segment, fixed-width
numbers, job ids are canonical UUIDs, no sibling folder whose name begins with another's, segments of at most 255 bytes.
"""

import re
from datetime import UTC, datetime, timedelta

DEFAULT_TENANT = "default"
DEFAULT_POOL = "default"
"""The pool of jobs that name none."""

_SAFE_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def check_segment(value: str) -> str:
    """Return a tenant, pool or id that is valid in a key. Raises ValueError."""
    if not _SAFE_SEGMENT.fullmatch(value) or ".." in value:
        raise ValueError(f"not usable in a key: {value!r}")
    return value


_UPLOAD_DATA = re.compile(r"tenants/[^/]+/uploads/([^/]+)/data")


def root(prefix: str) -> str:
    """Return the prefix of every key: `a/` for `a`, `/a` and `a/`; an empty string for no prefix."""
    name = prefix.strip("/")
    return f"{name}/" if name else ""


def folder(key: str) -> str:
    """Return the prefix of a record's key, which all objects of its job or batch share."""
    return key.rsplit("/", 1)[0] + "/"


def job_prefix(tenant: str, job_id: str) -> str:
    """Return the prefix of all objects of one job."""
    return f"tenants/{check_segment(tenant)}/jobs/{check_segment(job_id)}/"


def record(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "job.json"


def workflow(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "workflow.json"


def editor_file(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "editor.json"


def values(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "values.json"


def input_file(tenant: str, job_id: str, position: int) -> str:
    return job_prefix(tenant, job_id) + f"inputs/{position:03d}"


def output(tenant: str, job_id: str, attempt: int, position: int, filename: str) -> str:
    """Return the key of an output. `filename` must be a safe segment (`workers.outputs.payload` sanitises it)."""
    return job_prefix(tenant, job_id) + f"outputs/{attempt:03d}/{position:04d}/{filename}"


def log(tenant: str, job_id: str, attempt: int) -> str:
    return job_prefix(tenant, job_id) + f"logs/{attempt:03d}.txt"


def live(tenant: str, job_id: str, attempt: int) -> str:
    return job_prefix(tenant, job_id) + f"live/{attempt:03d}"


def webhook_secret(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "webhook_secret"


def partner_key(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "partner_key"


def delivery(tenant: str, kind: str, owner_id: str, sequence: int) -> str:
    """Return the key of an event's delivery. `kind` is job, batch or test."""
    return deliveries_prefix(tenant, kind, owner_id) + f"{sequence:06d}.json"


def deliveries_prefix(tenant: str, kind: str, owner_id: str) -> str:
    folder = {"job": "jobs", "batch": "batches", "test": "tests"}[kind]
    return f"tenants/{check_segment(tenant)}/{folder}/{check_segment(owner_id)}/deliveries/"


def endpoints_prefix(tenant: str) -> str:
    return f"tenants/{check_segment(tenant)}/endpoints/"


def endpoint(tenant: str, digest: str) -> str:
    return endpoints_prefix(tenant) + f"{check_segment(digest)}.json"


def batch_prefix(tenant: str, batch_id: str) -> str:
    return f"tenants/{check_segment(tenant)}/batches/{check_segment(batch_id)}/"


def batch(tenant: str, batch_id: str) -> str:
    return batch_prefix(tenant, batch_id) + "batch.json"


def batch_file(tenant: str, batch_id: str, position: int) -> str:
    return batch_prefix(tenant, batch_id) + f"inputs/{position:03d}"


def batch_webhook_secret(tenant: str, batch_id: str) -> str:
    return batch_prefix(tenant, batch_id) + "webhook_secret"


def upload_prefix(tenant: str, upload_id: str) -> str:
    return f"tenants/{check_segment(tenant)}/uploads/{check_segment(upload_id)}/"


def upload(tenant: str, upload_id: str) -> str:
    return upload_prefix(tenant, upload_id) + "upload.json"


def upload_data(tenant: str, upload_id: str) -> str:
    return upload_prefix(tenant, upload_id) + "data"


def upload_of(key: str) -> str | None:
    """Return the id of the upload whose bytes are under the key; None for another key."""
    found = _UPLOAD_DATA.fullmatch(key)
    return found and found[1]


def upload_uses(tenant: str, upload_id: str) -> str:
    return upload_prefix(tenant, upload_id) + "uses/"


def upload_use(tenant: str, upload_id: str, job_id: str) -> str:
    return upload_uses(tenant, upload_id) + check_segment(job_id)


def upload_assets(tenant: str, upload_id: str) -> str:
    return upload_prefix(tenant, upload_id) + "assets/"


def asset_prefix(tenant: str, asset_id: str) -> str:
    return f"tenants/{check_segment(tenant)}/assets/{check_segment(asset_id)}/"


def asset(tenant: str, asset_id: str) -> str:
    return asset_prefix(tenant, asset_id) + "asset.json"


def asset_uses(tenant: str, asset_id: str) -> str:
    return asset_prefix(tenant, asset_id) + "uses/"


def asset_hashes_prefix(tenant: str, digest: str) -> str:
    return f"tenants/{check_segment(tenant)}/asset-hashes/{check_segment(digest)}/"


def asset_names_prefix(tenant: str, digest: str) -> str:
    return f"tenants/{check_segment(tenant)}/asset-names/{check_segment(digest)}/"


def byte_ledger(tenant: str) -> str:
    return f"tenants/{check_segment(tenant)}/bytes.json"


def idempotency(tenant: str, digest: str) -> str:
    return f"tenants/{check_segment(tenant)}/idempotency/{check_segment(digest)}.json"


def runtimes(tenant: str, shape: str) -> str:
    return f"tenants/{check_segment(tenant)}/runtimes/{check_segment(shape)}.json"


def engine_info(pool: str) -> str:
    return f"engines/{check_segment(pool)}/engine.json.gz"


def worker_facts(pool: str) -> str:
    return f"engines/{check_segment(pool)}/worker.json"


def attention(pool: str) -> str:
    return f"engines/{check_segment(pool)}/attention.json"


def engine_uses(pool: str) -> str:
    return f"engines/{check_segment(pool)}/use/"


def engine_use(pool: str, place: int) -> str:
    return f"{engine_uses(pool)}{place:02d}.json"


def engine_starts(pool: str) -> str:
    return f"engines/{check_segment(pool)}/starts.json"


def tickets(pool: str) -> str:
    """Return the prefix of the pool's tickets."""
    return f"tickets/{check_segment(pool)}/"


def ticket(pool: str, ticket_id: str) -> str:
    return tickets(pool) + check_segment(ticket_id)


API_KEYS = "api-keys/"


def api_key(kid: str) -> str:
    return f"{API_KEYS}{check_segment(kid)}.json"


PROBES = "probes/"


def probe(nonce: str) -> str:
    return PROBES + check_segment(nonce)


def write_probe(number: int) -> str:
    """Return the key of a write probe, each in its own folder."""
    return f"{PROBES}write-{number:02}/probe"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
END_OF_TIME_MS = 9_999_999_999_999
"""An inverted time is subtracted from this, so that key order is newest first."""


def ms_of(moment: datetime) -> int:
    """Return the time in milliseconds since 1970, an integer because a float does not round-trip."""
    return (moment - _EPOCH) // _MS


def ms_up_of(moment: datetime) -> int:
    """Return the time in milliseconds, rounded up."""
    return -((_EPOCH - moment) // _MS)  # the floor of the negative time is the ceiling of the time


def time_of(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)

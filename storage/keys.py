"""The key layout: this file names the objects, `storage.index_keys` and `storage.timers` the keys without a body.

    tenants/<tenant>/jobs/<job_id>/job.json             the record: the only truth
                                  /workflow.json        the graph as submitted, immutable
                                  /values.json          its inputs, where they are too long for the record
                                  /inputs/<nnn>         media of the submission
                                  /outputs/<attempt>/<nnnn>/<filename>
                                  /logs/<attempt>.txt   what the engine said
                                  /deliveries/<nnnnnn>.json   how the delivery of an event went
                                  /webhook_secret       what its events are signed with, where it brought its own
                                  /partner_key          sealed: for partner nodes, until it ends
    tenants/<tenant>/batches/<batch_id>/batch.json      which jobs belong together, and whether they are accepted
                                      /inputs/<nnn>     media that all of them use
                                      /deliveries/<nnnnnn>.json
                                      /webhook_secret   as a job's
    tenants/<tenant>/tests/<test_id>/deliveries/<nnnnnn>.json   how the delivery of a test event went
    tenants/<tenant>/endpoints/<hash>.json              how a receiver of webhooks has been doing
    tenants/<tenant>/uploads/<upload_id>/upload.json    what was promised to the uploader
                                        /data           the bytes
                                        /uses/<job_id>  a job that reads them
    tenants/<tenant>/bytes.json                         what it has brought today, where that has a limit
    tenants/<tenant>/idempotency/<sha256>.json          which id stands for an Idempotency-Key
    tenants/<tenant>/runtimes/<shape>.json              recent run times of one workflow shape
    api-keys/<kid>.json                                 an API key's hash, tenant and scopes
    engines/<pool>/engine.json.gz                       node classes of the deployed engine
                  /worker.json                          what the pool's last worker runs on
                  /starts.json                          how the engine's latest starts went
                  /attention.json                       which attention was chosen before, by image, GPU and driver
    probes/<nonce>                                      what `doctor` writes and removes

Rules that hold on AWS and on SeaweedFS: no key is a prefix of another, no empty segment, fixed-width
numbers, job ids are canonical UUIDs, no sibling folder whose name begins with another's, segments of at most 255 bytes.
"""

import re

DEFAULT_TENANT = "default"
DEFAULT_POOL = "default"
"""Whose workers run a job that asks for none in particular."""

_SAFE_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def check_segment(value: str) -> str:
    """A tenant, pool or id as it may stand in a key; ValueError otherwise."""
    if not _SAFE_SEGMENT.fullmatch(value) or ".." in value:
        raise ValueError(f"not usable in a key: {value!r}")
    return value


def root(prefix: str) -> str:
    """What comes before every key in a bucket that is shared: `a/` for `a`, `/a` and `a/`; nothing for no prefix."""
    name = prefix.strip("/")
    return f"{name}/" if name else ""


def folder(key: str) -> str:
    """The prefix of a record's key, below which everything of its thing lies."""
    return key.rsplit("/", 1)[0] + "/"


def job_prefix(tenant: str, job_id: str) -> str:
    """Everything of one job lies below this prefix."""
    return f"tenants/{check_segment(tenant)}/jobs/{check_segment(job_id)}/"


def record(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "job.json"


def workflow(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "workflow.json"


def values(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "values.json"


def input_medium(tenant: str, job_id: str, position: int) -> str:
    return job_prefix(tenant, job_id) + f"inputs/{position:03d}"


def output(tenant: str, job_id: str, attempt: int, position: int, filename: str) -> str:
    """`filename` must be a safe segment already (`workers.outputs.payload` sanitises it)."""
    return job_prefix(tenant, job_id) + f"outputs/{attempt:03d}/{position:04d}/{filename}"


def log(tenant: str, job_id: str, attempt: int) -> str:
    return job_prefix(tenant, job_id) + f"logs/{attempt:03d}.txt"


def webhook_secret(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "webhook_secret"


def partner_key(tenant: str, job_id: str) -> str:
    return job_prefix(tenant, job_id) + "partner_key"


def delivery(tenant: str, kind: str, owner_id: str, sequence: int) -> str:
    """`kind` is job, batch or test."""
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


def batch_medium(tenant: str, batch_id: str, position: int) -> str:
    return batch_prefix(tenant, batch_id) + f"inputs/{position:03d}"


def batch_webhook_secret(tenant: str, batch_id: str) -> str:
    return batch_prefix(tenant, batch_id) + "webhook_secret"


def upload_prefix(tenant: str, upload_id: str) -> str:
    return f"tenants/{check_segment(tenant)}/uploads/{check_segment(upload_id)}/"


def upload(tenant: str, upload_id: str) -> str:
    return upload_prefix(tenant, upload_id) + "upload.json"


def upload_data(tenant: str, upload_id: str) -> str:
    return upload_prefix(tenant, upload_id) + "data"


def upload_uses(tenant: str, upload_id: str) -> str:
    return upload_prefix(tenant, upload_id) + "uses/"


def upload_use(tenant: str, upload_id: str, job_id: str) -> str:
    return upload_uses(tenant, upload_id) + check_segment(job_id)


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


def engine_starts(pool: str) -> str:
    return f"engines/{check_segment(pool)}/starts.json"


API_KEYS = "api-keys/"


def api_key(kid: str) -> str:
    return f"{API_KEYS}{check_segment(kid)}.json"


PROBES = "probes/"


def probe(nonce: str) -> str:
    return PROBES + check_segment(nonce)


def write_probe(number: int) -> str:
    """Each in a folder of its own."""
    return f"{PROBES}write-{number:02}/probe"

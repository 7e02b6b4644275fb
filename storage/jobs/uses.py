"""Uses: empty objects by which jobs keep an upload or an asset until they have ended."""

from storage.bucket.objects import ObjectStore, all_keys
from storage.concurrency import map_bounded
from storage.errors import JobNotFound
from storage.jobs.store import JobStore


async def is_used(jobs: JobStore, objects: ObjectStore, tenant: str, prefix: str) -> bool:
    """Whether a job that has not ended is named under `prefix`.

    A use is written before its job is committed, so a job of a submission under way does not count yet.
    """
    async for page in all_keys(objects, prefix):
        if any(await map_bounded(page, lambda key: _needs(jobs, tenant, key.rsplit("/", 1)[-1]))):
            return True
    return False


async def _needs(jobs: JobStore, tenant: str, job_id: str) -> bool:
    try:
        return not (await jobs.read(tenant, job_id)).record.status.is_terminal
    except JobNotFound as missing:
        await jobs.confirm_missing(tenant, job_id, missing)
        return False

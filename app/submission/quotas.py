"""Per-tenant quotas, checked on submission. A quota that is not set sends no bucket request.

Jobs are counted by their index keys, and a count is cached for two seconds: submissions that several processes accept
within that time may exceed the limit together. The byte quota is exact.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from app.problems import Problem
from app.services import Services
from app.submission.byte_quota import ByteQuota
from app.submission.input_files import LocalFile
from app.submission.preparation import PreparedJob
from storage.jobs.active_jobs import ActiveJobs
from storage.jobs.record import DAY_S

RETRY_S = 15
"""The Retry-After of a refused submission: a job may have ended by then."""


class Quotas:
    """The quotas of one tenant. Every method raises `Problem` with Retry-After where a quota is exceeded."""

    def __init__(self, services: Services, tenant: str) -> None:
        self._services = services
        self._stores = services.stores
        self._config = services.config
        self._tenant = tenant
        self._bytes = ByteQuota(services, tenant)

    @asynccontextmanager
    async def admitted(self, jobs: Mapping[str, PreparedJob], *receivers: str | None) -> AsyncIterator[None]:
        """Admit all of these new jobs, by id, or none. The caller writes the jobs inside this context.

        `receivers` are webhook URLs in addition to those of the jobs.
        """
        targets = (*receivers, *(job.options.webhook_url for job in jobs.values()))
        self._services.check_disk()
        await self._admit_jobs(len(jobs))
        await self.admit_targets({url for url in targets if url is not None})
        with self._stores.active_jobs.pending(self._tenant, jobs):
            # Within this context every count in this process includes the jobs, whether or not their keys exist yet.
            # Jobs of a batch share files, and a set counts each file once. Fetched files were charged on arrival.
            brought = {file for job in jobs.values() for file in (*job.pictures, *job.files)}
            local = [file for file in brought if isinstance(file, LocalFile) and not file.is_charged]
            await self._bytes.charge(sum(file.size_bytes for file in local))
            yield

    async def admit_targets(self, urls: set[str]) -> None:
        """Reserve these webhook receivers: one counts from its first submission to 30 days after its last event."""
        limit = self._config.max_webhook_targets
        if limit is None or not urls:
            return
        if not await self._stores.endpoints.reserve(self._tenant, urls, at_most=limit):
            detail = f"there would be more than {limit} receivers of the last 30 days"
            raise Problem("too-many-webhook-targets", detail, headers={"Retry-After": str(DAY_S)})

    async def _admit_jobs(self, count: int) -> None:
        limits = [limit for limit in (self._config.max_active_jobs, self._config.max_queued_jobs) if limit is not None]
        if not limits:
            return
        counts, at_most = self._stores.active_jobs, max(limits)
        active = await counts.of(self._tenant, at_most=at_most)
        if self._excess(active, count) is not None:
            # Index keys may be stale, so before a refusal the records themselves are counted, at most once a minute.
            active = await counts.audited(self._tenant, at_most=at_most) or active
        if (problem := self._excess(active, count)) is not None:
            raise problem
        # The count is cached, and the keys of these jobs are not written yet.
        active.add(count)

    def _excess(self, active: ActiveJobs, count: int) -> Problem | None:
        for slug, present, limit, what in (
            ("too-many-active-jobs", active.active, self._config.max_active_jobs, "queued or running"),
            ("too-many-queued-jobs", active.queued, self._config.max_queued_jobs, "queued"),
        ):
            if limit is not None and present + count > limit:
                detail = f"{count} more would exceed the {limit} jobs that may be {what} at once"
                return Problem(slug, detail, headers={"Retry-After": str(RETRY_S)})
        return None

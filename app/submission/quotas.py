"""What a tenant may have and bring, checked when it submits. A quota that is not set costs no request.

Jobs are counted by their hints, for a moment at a time: submissions that several processes accept within the same two
seconds may exceed the limit together. Bytes are exact.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from app.config import ApiConfig
from app.problems import Problem
from app.services import Services
from app.submission.byte_quota import ByteQuota
from app.submission.media import LocalMedium
from app.submission.preparation import PreparedJob
from storage.jobs.active_jobs import ActiveJobs
from storage.jobs.record import DAY_S

RETRY_S = 15
"""When a refused submission may try again: a job may have ended by then."""


class Quotas:
    """Of one tenant. Every method raises `Problem` with Retry-After where a quota is used up."""

    def __init__(self, services: Services, config: ApiConfig, tenant: str) -> None:
        self._services = services
        self._stores = services.stores
        self._config = config
        self._tenant = tenant
        self._bytes = ByteQuota(services, config, tenant)

    @asynccontextmanager
    async def admitted(self, jobs: Mapping[str, PreparedJob], *receivers: str | None) -> AsyncIterator[None]:
        """New jobs by their ids, with the files that came in their request, all or none. To be written within this.

        `receivers` are others than the jobs' own.
        """
        targets = (*receivers, *(job.options.webhook_url for job in jobs.values()))
        self._services.check_disk()
        await self._admit_jobs(len(jobs))
        await self.admit_targets({url for url in targets if url is not None})
        with self._stores.active_jobs.pending(self._tenant, jobs):
            brought = {medium for job in jobs.values() for medium in (*job.pictures, *job.media)}
            local = [medium for medium in brought if isinstance(medium, LocalMedium) and not medium.is_charged]
            await self._bytes.charge(sum(medium.size_bytes for medium in local))
            yield

    async def admit_targets(self, urls: set[str]) -> None:
        """A receiver counts from its first submission on, and for 30 days after its last event."""
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
        loads, at_most = self._stores.active_jobs, max(limits)
        load = await loads.of(self._tenant, at_most=at_most)
        if self._excess(load, count) is not None:
            load = await loads.audited(self._tenant, at_most=at_most) or load
        if (problem := self._excess(load, count)) is not None:
            raise problem
        load.add(count)

    def _excess(self, load: ActiveJobs, count: int) -> Problem | None:
        for slug, present, limit, what in (
            ("too-many-active-jobs", load.active, self._config.max_active_jobs, "queued or running"),
            ("too-many-queued-jobs", load.queued, self._config.max_queued_jobs, "queued"),
        ):
            if limit is not None and present + count > limit:
                detail = f"{count} more would exceed the {limit} jobs that may be {what} at once"
                return Problem(slug, detail, headers={"Retry-After": str(RETRY_S)})
        return None

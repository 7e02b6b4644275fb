"""Per-tenant quotas, checked on submission. A quota that is not set sends no bucket request.

Jobs are counted by their index keys, and a count is cached for two seconds: submissions that several processes accept
within that time may exceed the limit together. Before a refusal the records are counted, so that a client that is below
its quota is never refused. The byte quota is exact.
"""

import math
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.problems import Problem
from app.services import Services
from app.submission.byte_quota import ByteQuota
from app.submission.input_files import LocalFile, PreparedFile
from app.submission.preparation import PreparedJob
from storage.errors import IdempotencyKeyReused
from storage.jobs.active_jobs import ActiveJobs

RETRY_S = 5
"""The Retry-After where there are too many jobs: one may have ended by then."""


@dataclass(slots=True)
class Admission:
    """`is_used` is set to False by a caller that makes no job after all, such as a concurrent repeat of a request."""

    is_used: bool = True


class Quotas:
    """The quotas of one tenant. Every method raises `Problem` with Retry-After where a quota is exceeded."""

    def __init__(self, services: Services, tenant: str) -> None:
        self._services = services
        self._stores = services.stores
        self._config = services.config
        self._tenant = tenant
        self._bytes = ByteQuota(services, tenant)

    @asynccontextmanager
    async def admitted(
        self, jobs: Mapping[str, PreparedJob], *receivers: str | None, shared: Collection[PreparedFile] = ()
    ) -> AsyncIterator[Admission]:
        """Admit all of these new jobs, by id, or none. The caller writes the jobs inside this context.

        `receivers` are webhook URLs in addition to those of the jobs. `shared` are files that are stored once for all.
        """
        targets = (*receivers, *(job.options.webhook_url for job in jobs.values()))
        self._services.check_disk()
        await self._admit_jobs(len(jobs))
        with self._stores.active_jobs.pending(self._tenant, jobs):
            # Within this context every count in this process includes the jobs, whether or not their keys exist yet.
            # Every other file counts for each job that brings it, since each stores a copy. Fetched files were charged
            # on arrival.
            once = set(shared)
            own = (file for job in jobs.values() for file in (*job.pictures, *job.files) if file not in once)
            local = [file for file in (*once, *own) if isinstance(file, LocalFile) and not file.is_charged]
            size = sum(file.size_bytes for file in local)
            await self._bytes.charge(size)
            admission = Admission()
            try:
                await self.admit_targets({url for url in targets if url is not None})
                yield admission
            except (Problem, IdempotencyKeyReused):
                admission.is_used = False
                raise
            finally:
                # A refused request brought nothing. After a failure, or where an asset was deleted while others were
                # copied, the job or a part of it may exist, so its bytes stay charged.
                if not admission.is_used:
                    await self._bytes.give_back(size)

    async def admit_targets(self, urls: set[str]) -> None:
        """Reserve these webhook receivers: one counts from its first submission to 30 days after its last event."""
        limit = self._config.max_webhook_targets
        if limit is None or not urls:
            return
        if len(urls) > limit:
            detail = f"the request has {len(urls)} receivers, at most {limit} of 30 days are allowed"
            raise Problem("too-many-webhook-targets", detail)
        free_in = await self._stores.endpoints.reserve(self._tenant, urls, at_most=limit)
        if free_in is not None:
            detail = f"there would be more than {limit} receivers of the last 30 days"
            headers = {"Retry-After": str(math.ceil(free_in.total_seconds()))}
            raise Problem("too-many-webhook-targets", detail, headers=headers)

    async def _admit_jobs(self, count: int) -> None:
        limits = [limit for limit in (self._config.max_active_jobs, self._config.max_queued_jobs) if limit is not None]
        if not limits:
            return
        counts, at_most = self._stores.active_jobs, max(limits)
        active = await counts.of(self._tenant, at_most=at_most)
        if self._excess(active, count) is not None:
            # The cached count and index keys include jobs that have ended since.
            active = await counts.verified(self._tenant, at_most=at_most)
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

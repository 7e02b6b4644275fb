"""Prepares and accepts a batch: writes every job unpublished, then publishes all with one write (`storage.batches`)."""

import asyncio
import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic_core import to_json
from starlette.requests import ClientDisconnect

from app.config import ApiConfig
from app.heavy import off_loop
from app.problems import Problem
from app.services import Services
from app.submission.acceptance import Acceptance, Identity
from app.submission.fetching import url_count
from app.submission.input_files import LocalFile, PreparedFile
from app.submission.preparation import Preparation, PreparedInputs, PreparedJob, PreparedWorkflow
from app.submission.quotas import Quotas
from app.submission.request import BatchRequest, InputValue, JobOptions, JobRequest
from storage import keys
from storage.batch_record import BatchRecord, StoredBatch, member_id
from storage.concurrency import map_bounded
from storage.errors import BatchGone, BatchNotFound, PreconditionFailed
from storage.jobs.models import InputFile
from storage.jobs.record import JobRecord
from storage.jobs.store import store_input
from storage.keys import DEFAULT_POOL
from workflows.graph import Graph

IsGone = Callable[[], Awaitable[bool]]
MOST_WARNING_BYTES = 8 * 1024**2
"""Size as JSON of all different warnings of a batch's jobs, which are in memory until all jobs are stored."""
JOBS_BETWEEN_CHECKS = 50
"""Jobs that are validated between two checks whether the client is still connected: a batch can take seconds."""
PIECE_S = 0.05
"""CPU time after which the checks of input sets let other tenants have the thread."""


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """A validated batch. `shared` are the input files that every job uses."""

    jobs: tuple[PreparedJob, ...]
    shared: tuple[PreparedFile, ...]
    metadata: dict[str, str]
    webhook_url: str | None
    webhook_secret: str | None = None


async def prepared_batch(
    preparation: Preparation, request: BatchRequest, config: ApiConfig, is_gone: IsGone
) -> PreparedBatch:
    """Validate every job of the batch.

    Raises `Problem` for the first invalid job, and `ClientDisconnect` if the client disconnects during validation.
    """
    if request.jobs is not None and request.input_sets is None:
        _only_jobs(request)
        await preparation.check(request, "")
        _check_count("jobs", len(request.jobs), config)
        preparation.check_urls(sum(url_count(job.media, job.inputs) for job in request.jobs), config.max_batch_urls)
        return PreparedBatch(
            await _own_jobs(preparation, request.jobs, config, is_gone), (), request.metadata, request.webhook_url
        )
    if request.input_sets is not None and request.jobs is None:
        _check_count("input_sets", len(request.input_sets), config)
        urls = url_count(request.media, itertools.chain.from_iterable(request.input_sets))
        preparation.check_urls(urls, config.max_batch_urls)
        return await _variations(preparation, request, request.input_sets, config, is_gone)
    raise Problem("batch-ambiguous", "a batch has either `workflow` and `input_sets`, or `jobs`", pointer="")


def _only_jobs(request: BatchRequest) -> None:
    others = sorted(request.model_fields_set - {"jobs", "metadata", "webhook_url"})
    if others:
        detail = f"with `jobs`, {others[0]} has no meaning: each job has its own"
        raise Problem("batch-ambiguous", detail, pointer=f"/{others[0]}")


def _check_count(field: str, count: int, config: ApiConfig) -> None:
    if not 1 <= count <= config.most_jobs_at_once:
        detail = f"{count} jobs, from 1 to {config.most_jobs_at_once} make a batch"
        raise Problem("too-many-jobs" if count else "validation-error", detail, pointer=f"/{field}")


async def _check_work(graph: Graph, sets: int, config: ApiConfig) -> None:
    """Check the work of validating the graph once for each input set."""
    _check_product("nodes", len(graph.nodes), sets, config.max_batch_nodes)
    _check_product("values", await off_loop(graph.count_values), sets, config.max_batch_values)


def _check_product(what: str, count: int, sets: int, limit: int) -> None:
    if count * sets > limit:
        detail = f"{sets} jobs of {count} {what} each, at most {limit} {what} in all are allowed"
        raise Problem("too-many-jobs", detail, pointer="/input_sets")


class _SharedWarnings:
    """Lets the jobs of a batch share equal warnings, and bounds the size of the others."""

    def __init__(self) -> None:
        self._known: dict[bytes, Mapping[str, Any]] = {}
        self._size = 0

    def shared(self, job: PreparedJob, where: str) -> PreparedJob:
        """Return the job with warnings that it shares. Raises `Problem` beyond `MOST_WARNING_BYTES`."""
        if not job.warnings:
            return job
        text = to_json(job.warnings)
        digest = hashlib.sha256(text).digest()
        if digest not in self._known:
            self._size += len(text)
            self._known[digest] = job.warnings
        if self._size > MOST_WARNING_BYTES:
            detail = f"the jobs up to this one have {self._size} bytes of different warnings (outputs that do not run),"
            hint = "correct the faults that the warnings of a single job name, or send several batches"
            raise Problem("too-many-jobs", f"{detail} at most {MOST_WARNING_BYTES} are kept", pointer=where, hint=hint)
        return replace(job, warnings=self._known[digest])


async def _own_jobs(
    preparation: Preparation, requests: Sequence[JobRequest], config: ApiConfig, is_gone: IsGone
) -> tuple[PreparedJob, ...]:
    jobs, warnings, nodes, size, steps = [], _SharedWarnings(), 0, 0, 0
    for position, request in enumerate(requests):
        await _check_connected(position, is_gone)
        where = f"/jobs/{position}"
        job = await preparation.set_aside(await preparation.whole_job(request, where))
        jobs.append(await off_loop(warnings.shared, job, where) if job.warnings else job)
        # The size of the request does not bound them: an editor's file repeats its subgraphs and their texts.
        nodes += jobs[-1].workflow.nodes
        size += jobs[-1].workflow.size
        steps += jobs[-1].workflow.conversion_steps
        for taken, limit, what in (
            (nodes, config.max_batch_nodes, "nodes (`max_batch_nodes`)"),
            (size, config.max_batch_graph_bytes, "bytes of graphs (`max_batch_graph_bytes`)"),
            (steps, config.max_batch_conversion_steps, "steps of conversion (`max_batch_conversion_steps`)"),
        ):
            if taken > limit:
                detail = f"the jobs up to this one have {taken} {what}, at most {limit} are allowed"
                raise Problem("too-many-jobs", detail, pointer=where)
        await asyncio.sleep(0)  # yields to other requests: validating small graphs never awaits, and 1,000 take seconds
    return tuple(jobs)


async def _check_connected(position: int, is_gone: IsGone) -> None:
    if position % JOBS_BETWEEN_CHECKS == 0 and await is_gone():
        raise ClientDisconnect


async def _variations(
    preparation: Preparation,
    request: BatchRequest,
    input_sets: Sequence[Sequence[InputValue]],
    config: ApiConfig,
    is_gone: IsGone,
) -> PreparedBatch:
    await preparation.check(request, "")
    workflow = await preparation.workflow(request.workflow, "", request.gpu or DEFAULT_POOL)
    # The graph is sent once and stored with each job, so the request's own size does not bound the bytes written.
    size = workflow.parts.size
    total = size * len(input_sets)
    if total > config.max_batch_graph_bytes:
        detail = f"{len(input_sets)} jobs that store a graph of {size} bytes each, at most "
        raise Problem(
            "too-many-jobs", f"{detail}{config.max_batch_graph_bytes} bytes are allowed", pointer="/input_sets"
        )
    await _check_work(workflow.graph, len(input_sets), config)
    checks = _SetChecks(preparation, request, workflow)
    for position in range(0, len(input_sets), JOBS_BETWEEN_CHECKS):
        await _check_connected(position, is_gone)
        await checks.add(input_sets[position : position + JOBS_BETWEEN_CHECKS])
    files = await preparation.files(request, "")  # last: only a valid batch fetches and decodes files
    return PreparedBatch(
        tuple(replace(job, files=files) for job in checks.jobs),
        files,
        request.metadata,
        request.webhook_url,
        request.webhook_secret,
    )


class _SetChecks:
    """Makes the jobs of a batch's input sets, many in one call of `off_loop`.

    Each call waits for its turn at the threads, behind work of other tenants that may take a second, and most sets are
    checked within 1 ms.
    """

    def __init__(self, preparation: Preparation, options: JobOptions, workflow: PreparedWorkflow) -> None:
        self._preparation, self._options, self._workflow = preparation, options, workflow
        self._warnings = _SharedWarnings()
        self.jobs: list[PreparedJob] = []

    async def add(self, input_sets: Sequence[Sequence[InputValue]]) -> None:
        """Make the jobs of the next sets. Raises `Problem` for the first invalid set."""
        given, refusal = [], None
        try:
            for position, inputs in enumerate(input_sets, len(self.jobs)):
                given.append(await self._preparation.inputs(self._options, inputs, f"/input_sets/{position}"))
        except Problem as problem:
            refusal = problem  # raised after the sets before it, of which one may be invalid
        done = 0
        while done < len(given):
            done += await off_loop(self._check, given[done:])
        if refusal is not None:
            raise refusal

    def _check(self, given: Sequence[PreparedInputs]) -> int:
        """Make jobs in a thread, at least one, until they have taken `PIECE_S`. Returns their number."""
        until = time.thread_time() + PIECE_S
        for count, one in enumerate(given, 1):
            job = self._preparation.checked(self._options, self._workflow, one, "/workflow")
            self.jobs.append(self._warnings.shared(job, one.inputs_at))
            if time.thread_time() >= until:
                return count
        return len(given)


@dataclass(frozen=True, slots=True)
class AcceptedBatch:
    """An accepted batch. `is_replay` marks a batch that an earlier request with the same Idempotency-Key created."""

    stored: StoredBatch
    is_replay: bool = False


class BatchAcceptance:
    """Accepts the batch of one request, all of its jobs or none."""

    def __init__(self, services: Services, tenant: str) -> None:
        self._stores = services.stores
        self._config = services.config
        self._tenant = tenant
        self._acceptance = Acceptance(services, tenant)
        self._quotas = Quotas(services, tenant)

    async def replayed(self, identity: Identity) -> AcceptedBatch | None:
        """Return the batch that an earlier request with the same Idempotency-Key created, or None."""
        batch_id = await self._acceptance.known("batches", identity)
        known = None if batch_id is None else await self._known(batch_id)
        return None if known is None else AcceptedBatch(known, is_replay=True)

    async def batch(self, prepared: PreparedBatch, identity: Identity) -> AcceptedBatch:
        """Accept all jobs of the batch, or none. Raises `Problem` where a quota is exceeded."""
        batch_id, is_first = await self._acceptance.identify("batches", identity)
        if not is_first and (known := await self._known(batch_id)) is not None:
            return AcceptedBatch(known, is_replay=True)
        # Job ids derive from the batch id: a retry after a crash finds the jobs that were written already.
        job_ids = [member_id(batch_id, position) for position in range(len(prepared.jobs))]
        jobs = dict(zip(job_ids, prepared.jobs, strict=True))
        async with self._quotas.admitted(jobs, prepared.webhook_url, shared=prepared.shared) as admission:
            accepted = await self._make(prepared, identity, batch_id, job_ids)
            admission.is_used = not accepted.is_replay
            return accepted

    async def _make(
        self, prepared: PreparedBatch, identity: Identity, batch_id: str, job_ids: Sequence[str]
    ) -> AcceptedBatch:
        draft = await self._stores.batches.draft(
            BatchRecord(
                tenant=self._tenant,
                batch_id=batch_id,
                job_ids=tuple(job_ids),
                warned=tuple(position for position, job in enumerate(prepared.jobs) if job.warnings),
                metadata=prepared.metadata,
                created_at=self._stores.clock.now(),
                retain_s=self._config.retain_s,
                webhook_url=prepared.webhook_url,
                has_webhook_secret=prepared.webhook_secret is not None,
            )
        )
        if draft.record.is_open:  # a concurrent request with the same key accepted the batch
            return AcceptedBatch(draft, is_replay=True)
        stored_files = await self._store_shared(batch_id, prepared.shared)
        if prepared.webhook_secret is not None:
            key = keys.batch_webhook_secret(self._tenant, batch_id)
            await self._stores.objects.put(key, prepared.webhook_secret.encode())
        # Jobs are invisible to workers until `accept` publishes them, so a crash here leaves no partial batch.
        numbered = list(enumerate(prepared.jobs))
        records = await map_bounded(numbered, lambda item: self._write(draft.record, *item, identity, stored_files))
        opened, is_first = await self._stores.batches.accept(draft, records)
        if not is_first:  # a concurrent request with the same key opened the batch
            return AcceptedBatch(opened, is_replay=True)
        pools = Counter(record.pool for record in records)
        await map_bounded(pools, lambda pool: self._acceptance.request_workers(pool, pools[pool]))
        return AcceptedBatch(opened)

    async def _known(self, batch_id: str) -> StoredBatch | None:
        """Return the batch if it was accepted. Raises `BatchGone`."""
        try:
            return await self._stores.batches.read(self._tenant, batch_id)
        except BatchGone:  # a subclass of BatchNotFound, but the batch did exist, so it must not be made again
            raise
        except BatchNotFound:  # the request that claimed the id crashed, was refused, or has not committed yet
            return None

    async def _store_shared(self, batch_id: str, shared: Sequence[PreparedFile]) -> dict[LocalFile, InputFile]:
        """Store the local files that every job uses once, under the batch's own keys."""
        stored: dict[LocalFile, InputFile] = {}
        for position, given in enumerate(shared):
            if isinstance(given, LocalFile):
                stored[given] = given.stored(keys.batch_file(self._tenant, batch_id, position))
                await store_input(self._stores.objects, stored[given], given.path)
        return stored

    async def _write(
        self,
        batch: BatchRecord,
        position: int,
        prepared: PreparedJob,
        identity: Identity,
        shared: dict[LocalFile, InputFile],
    ) -> JobRecord:
        """Write one job without publishing it. Returns the stored record, which a retry reads back."""
        job_id = batch.job_ids[position]
        record, uploads = self._acceptance.draft(
            prepared, job_id, batch.created_at, identity, batch=batch, shared=shared
        )
        # Before the job is written: an upload or asset that no job holds may expire and be deleted meanwhile.
        await self._acceptance.hold_files(prepared, job_id)
        try:
            stored = await self._stores.jobs.create_unpublished(
                record,
                workflow=await prepared.workflow.graph(),
                uploads=uploads,
                extras=self._acceptance.extras(prepared, record),
            )
        except PreconditionFailed:  # an earlier attempt of this request wrote the job
            stored = await self._stores.jobs.read(self._tenant, job_id)
        # Publishing needs only the keys of the record, and warnings that were read back are not shared.
        return stored.record.model_copy(update={"warnings": {}})

"""Validates a batch: either one workflow with many input sets, or a list of independent jobs."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from starlette.requests import ClientDisconnect

from app.config import ApiConfig
from app.problems import Problem
from app.submission.fetching import url_count
from app.submission.media import PreparedMedium
from app.submission.preparation import Preparation, PreparedJob
from app.wire.batches import BatchRequest
from app.wire.jobs import InputValue, JobRequest

IsGone = Callable[[], Awaitable[bool]]
JOBS_BETWEEN_CHECKS = 50
"""Jobs that are validated between two checks whether the client is still connected: a batch can take seconds."""


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """A validated batch. `shared` are the media that every job uses."""

    jobs: tuple[PreparedJob, ...]
    shared: tuple[PreparedMedium, ...]
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
            await _own_jobs(preparation, request.jobs, is_gone), (), request.metadata, request.webhook_url
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


def _check_work(nodes: int, sets: int, config: ApiConfig) -> None:
    if nodes * sets > config.max_batch_nodes:
        detail = f"{sets} jobs of {nodes} nodes each, at most {config.max_batch_nodes} nodes in all are allowed"
        raise Problem("too-many-jobs", detail, pointer="/input_sets")


async def _own_jobs(
    preparation: Preparation, requests: Sequence[JobRequest], is_gone: IsGone
) -> tuple[PreparedJob, ...]:
    jobs = []
    for position, request in enumerate(requests):
        await _check_connected(position, is_gone)
        jobs.append(await preparation.whole_job(request, f"/jobs/{position}"))
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
    workflow = await preparation.workflow(request.workflow, "")
    # The graph is sent once and stored with each job, so the request's own size does not bound the bytes written.
    total = len(workflow.document) * len(input_sets)
    if total > config.max_batch_graph_bytes:
        detail = f"{len(input_sets)} jobs that store a graph of {len(workflow.document)} bytes each, at most "
        raise Problem(
            "too-many-jobs", f"{detail}{config.max_batch_graph_bytes} bytes are allowed", pointer="/input_sets"
        )
    _check_work(len(workflow.graph.nodes), len(input_sets), config)
    jobs = []
    for position, inputs in enumerate(input_sets):
        await _check_connected(position, is_gone)
        where = f"/input_sets/{position}"
        jobs.append(await preparation.job(request, workflow, inputs, where, "/workflow", one_of_many=True))
    media = await preparation.media(request, "")  # last: only a valid batch fetches and decodes files
    return PreparedBatch(
        tuple(replace(job, media=media) for job in jobs),
        media,
        request.metadata,
        request.webhook_url,
        request.webhook_secret,
    )

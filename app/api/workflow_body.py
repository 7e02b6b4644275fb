"""Reads the body of an operation that examines a workflow and makes no job."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from app.api.context import body_of, check_is_json, context_of, json_body
from app.config import ApiConfig
from app.fields import RequestBody
from app.problems import Problem
from app.submission.foreign import job_form, relocated
from app.submission.preparation import parsed
from storage.keys import DEFAULT_POOL
from workflows.location import words


class WorkflowRequest(RequestBody):
    """A request about one workflow."""

    workflow: Any
    gpu: str | None


Asked = TypeVar("Asked", bound=WorkflowRequest)


@asynccontextmanager
async def workflow_body(request: Request, model: type[Asked]) -> AsyncIterator[tuple[Asked, str]]:
    """Yield the body, which may have any form that POST /v1/jobs takes, and the pool that it names.

    Problems that are raised inside point into the body as it was sent. Raises `Problem`.
    """
    config = context_of(request).config
    check_is_json(request)
    with body_of(request) as body:
        document = await json_body(request, body, limit=config.max_request_bytes)
        form = await body.aside(job_form, document)
        with relocated(form.moves):
            wanted = parsed(model, form.document)
            yield wanted, known_pool(config, wanted.gpu)


def known_pool(config: ApiConfig, gpu: str | None) -> str:
    """Return the pool that a request names, the default one without a name. Raises `Problem`."""
    pool = gpu or DEFAULT_POOL
    if pool != DEFAULT_POOL and pool not in config.gpu_pools:
        raise Problem("unknown-gpu", f"there is no pool {words(pool)}", pointer="/gpu")
    return pool

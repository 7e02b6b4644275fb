"""GET /api/v2/jobs: the rows of the list, and its filter by labels."""

import re
from datetime import datetime

from pydantic import Field
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import context_of, shared_answer, tenant_of
from app.comfy_v2.errors import ComfyProblem
from app.comfy_v2.job_view import comfy_status
from app.fields import MAX_METADATA_NAME, MAX_METADATA_TEXT, Moment, ResponseBody
from app.numbers import whole
from storage.jobs.filters import JobFilter
from storage.jobs.record import JobRecord

DEFAULT_ROWS = 50
MOST_LABELS = 3
"""Labels that one request may filter by."""
_FILTER = re.compile(r"metadata\[(.*)\]", re.DOTALL)


class ComfyJobRow(ResponseBody):
    id: str
    status: str
    create_time: Moment
    update_time: Moment
    metadata: dict[str, str]


class ComfyJobList(ResponseBody):
    jobs: list[ComfyJobRow]
    next_cursor: str | None = Field(description="null on the last page; other pages may be short, even empty")


async def page(request: Request) -> Response:
    """Return one page of the tenant's jobs, newest first."""
    context, query = context_of(request), request.query_params
    wanted = JobFilter(metadata=label_filter(query))
    limit, cursor = _limit(query, context.config.max_page), query.get("cursor") or None
    stores, tenant, scan = context.stores, tenant_of(request), context.config.max_scanned_jobs

    async def rows() -> ComfyJobList:
        listed = await stores.jobs.page(tenant, comfy_job_row, wanted, limit=limit, cursor=cursor, scan=scan)
        return ComfyJobList(jobs=list(listed.rows), next_cursor=listed.next_cursor)

    return await shared_answer(request, rows)


def comfy_job_row(record: JobRecord) -> ComfyJobRow:
    return ComfyJobRow(
        id=record.job_id,
        status=comfy_status(record),
        create_time=record.created_at,
        update_time=_updated_at(record),
        metadata=record.metadata,
    )


def label_filter(query: QueryParams) -> dict[str, str]:
    """Return the labels that the listed jobs have all. Raises `ComfyProblem`."""
    found: dict[str, str] = {}
    for name, text in query.multi_items():
        if (match := _FILTER.fullmatch(name)) is None:
            continue
        # As long as the metadata of /v1 may be, so that jobs of that surface can be found here too.
        if not 0 < len(match[1]) <= MAX_METADATA_NAME or len(text) > MAX_METADATA_TEXT:
            detail = f"{name[:80]} needs a key of 1 to {MAX_METADATA_NAME} characters and a value of at most "
            raise ComfyProblem("invalid_metadata_filter", f"{detail}{MAX_METADATA_TEXT}", slug="invalid-parameter")
        found[match[1]] = text
    if len(found) > MOST_LABELS:
        detail = f"the filter has {len(found)} labels, at most {MOST_LABELS} are allowed"
        raise ComfyProblem("invalid_metadata_filter", detail, slug="invalid-parameter")
    return found


def _limit(query: QueryParams, most: int) -> int:
    text = query.get("limit")
    if text is None:
        return min(DEFAULT_ROWS, most)
    try:
        # A larger page than this deployment answers is no mistake of the client: its next_cursor continues the list.
        return min(whole(text, 1, 1_000_000), most)
    except ValueError as error:
        raise ComfyProblem("invalid_request", f"limit: {error}", slug="invalid-parameter") from None


def _updated_at(record: JobRecord) -> datetime:
    renewed = None if record.lease is None else record.lease.renewed_at
    return record.completed_at or renewed or record.started_at or record.created_at

"""The list of jobs: newest first, with the filters of the API, thumbnails, counts, and what can be done with a job."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import Context, body_of, context_of, tenant_of
from app.api.job_filter import job_filter
from app.api.job_view import OutputView, output_url
from app.api.jobs import JobRow, cancel_job, job_row, page_of_jobs
from app.api.submissions import retry_job
from app.outcome import outcome_of
from app.submission.acceptance import Identity
from app.ui.pages import render
from app.ui.routing import action, form, is_fragment, page, see_other
from storage.concurrency import both, gather
from storage.index_keys import list_prefix
from storage.jobs.models import Output
from storage.jobs.record import CANCELLED, JobRecord, Status

PAGE = 25
MOST_COUNTED = 1_000
"""Jobs of a status that are counted: as many as one LIST returns."""
PICTURES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/avif")
"""Types that pages show. A picture cannot run anything in an `img`, but SVG is left out all the same."""
FIELDS = ("status", "workflow", "error_code", "batch_id", "created_after", "created_before")
METADATA = ("metadata_name", "metadata_value")


@dataclass(frozen=True, slots=True)
class Row:
    """A job in the list. `thumbnail` is the URL of its first picture."""

    job: JobRow
    thumbnail: str | None
    kind: str
    """The type of its first output; empty without one."""
    outputs: int
    seconds: float | None
    is_cancelling: bool

    @property
    def label(self) -> str:
        """Its status as people say it: a cancelled job is `failed` in the API."""
        if self.job.error_code == CANCELLED:
            return CANCELLED
        return "cancelling" if self.is_cancelling else str(self.job.status)


async def show(request: Request) -> Response:
    context, tenant, query = context_of(request), tenant_of(request), request.query_params
    wanted = job_filter(_as_of_the_api(query), max_metadata_pairs=context.config.max_metadata_pairs)
    now, cursor = context.stores.clock.now(), query.get("cursor") or None
    since = context.feeds.newest_id(tenant)  # read before the list, so that no change falls between the two

    async def found() -> Mapping[str, object]:
        listed, counts = await both(
            page_of_jobs(
                context, tenant, lambda record: row_of(context, record, now), wanted, limit=PAGE, cursor=cursor
            ),
            _counts(context, tenant),
        )
        return {"rows": listed.rows, "next_cursor": listed.next_cursor, "counts": counts, "since": since}

    values = await context.shared.get(tenant, ("ui", "jobs", str(query)), found)
    filters = {name: query.get(name, "") for name in (*FIELDS, *METADATA)}
    given = {name: text for name, text in filters.items() if text}
    return render(
        request,
        "fragments/jobs.html" if is_fragment(request) else "jobs.html",
        now=now,
        filters=filters,
        is_filtered=bool(given),
        is_first=cursor is None,
        address=f"/ui/jobs?{urlencode(given)}",
        older=f"/ui/jobs?{urlencode(given | {'cursor': values['next_cursor']})}" if values["next_cursor"] else None,
        **values,
    )


async def cancel(request: Request) -> Response:
    return await _end(request, purge=False)


async def remove(request: Request) -> Response:
    return await _end(request, purge=True)


async def retry(request: Request) -> Response:
    """Submit a finished job again, and lead to the new one."""
    context, tenant, job_id = context_of(request), tenant_of(request), request.path_params["job_id"]
    with body_of(request) as body:
        accepted = await retry_job(context, tenant, job_id, body, Identity(None, body.fingerprint))
    outcome_of(request.scope).jobs_accepted = 1
    return see_other(f"/jobs/{accepted.stored.record.job_id}")


async def _end(request: Request, *, purge: bool) -> Response:
    job_id = request.path_params["job_id"]
    stored = await cancel_job(context_of(request), tenant_of(request), job_id, purge=purge)
    is_of_list = purge or form(request).get("from") == "list"
    return see_other("/jobs" if is_of_list or stored is None else f"/jobs/{stored.record.job_id}")


def is_picture(output: Output | OutputView) -> bool:
    return output.content_type in PICTURES


def row_of(context: Context, record: JobRecord, now: datetime) -> Row:
    picture = next((output for output in record.outputs if is_picture(output)), None)
    return Row(
        job=job_row(record),
        thumbnail=None if picture is None else output_url(picture, context.stores.objects, context.config).url,
        kind=record.outputs[0].type if record.outputs else "",
        outputs=len(record.outputs),
        seconds=run_seconds(record, now),
        is_cancelling=record.cancel_requested_at is not None and not record.status.is_terminal,
    )


def run_seconds(record: JobRecord, now: datetime) -> float | None:
    """Return how long the last attempt took, or takes; None for a job that no worker has begun."""
    if record.started_at is None or record.status is Status.QUEUED:
        return None
    return max(0.0, ((record.completed_at or now) - record.started_at).total_seconds())


async def _counts(context: Context, tenant: str) -> dict[str, str]:
    """Count the jobs by status, for one LIST each; one that is just changing may count as it was before."""

    async def count(status: Status) -> str:
        listed = await context.stores.objects.list(list_prefix(tenant, status), limit=MOST_COUNTED)
        return f"{MOST_COUNTED}+" if listed.more else str(len(listed.keys))

    found = await gather(*(count(status) for status in Status))
    return dict(zip(map(str, Status), found, strict=True))


def _as_of_the_api(query: QueryParams) -> QueryParams:
    """Return the fields of the form as the parameters of GET /v1/jobs."""
    pairs = {name: query.get(name, "") for name in FIELDS}
    for name in ("created_after", "created_before"):
        # What a browser's field for times gives has no zone, and may have no seconds.
        if pairs[name] and not pairs[name].upper().endswith("Z"):
            pairs[name] += ":00Z" if pairs[name].count(":") == 1 else "Z"
    if metadata := query.get("metadata_name"):
        pairs[f"metadata[{metadata}]"] = query.get("metadata_value", "")
    return QueryParams(pairs)


ROUTES = (
    page("/jobs", show, "list_jobs"),
    action("/jobs/{job_id}/cancel", cancel, "cancel_job"),
    action("/jobs/{job_id}/retry", retry, "retry_job"),
    action("/jobs/{job_id}/remove", remove, "remove_job"),
)

"""The shapes of requests, and JSON objects in general. `_answers` has the shapes of answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Json = dict[str, Any]
"""A JSON object, as the API answers it."""

EventName = Literal["queued", "started", "progress", "output", "completed", "failed"]


class JobOptions(TypedDict, total=False):
    """How a job is run, whatever it computes. All members are optional."""

    media: Sequence[Mapping[str, str]]
    """Input files: `name` as the loader names it, and one of `upload_id`, `asset_id`, `url` and `data` (base64)."""
    priority: int
    """A job with a higher priority runs first. Default 0."""
    timeout_s: int | None
    """Longest run time of one attempt, in seconds."""
    queue_timeout_s: int | None
    """Longest wait for a worker, in seconds. After it the job fails with `queue_timeout`."""
    deadline_s: int | None
    """Longest time until the job has ended, queue included, in seconds. After it the job fails with
    `deadline_exceeded`."""
    retain_days: float | None
    """How long the job and its files are kept after its end, in days."""
    strict: bool
    """Refuse the job if some of its outputs cannot run, instead of running the others."""
    gpu: str | None
    """The deployment's GPU pool that runs the job."""
    metadata: Mapping[str, str]
    """Your own labels, returned with the job."""
    extra_data: Mapping[str, str] | None
    """`{"api_key_comfy_org": "…"}`: your key for partner nodes. It goes to the engine alone."""
    webhook_url: str | None
    """The URL that receives the job's events."""
    webhook_secret: str | None
    """The secret, `whsec_…`, that signs this job's events instead of the deployment's."""
    webhook_events: Sequence[EventName]
    """Which events are sent. Default: `completed` and `failed`."""


class ListOptions(TypedDict, total=False):
    """Which jobs a page lists: those that pass all filters. All members are optional."""

    limit: int
    """Rows of a page, 1 to 200. Default 50."""
    cursor: str | None
    """The `next_cursor` of the page before."""
    status: str | None
    """The state: `queued`, `running`, `completed` or `failed`."""
    created_after: str | None
    """The earliest `created_at`, as RFC 3339, such as `2026-11-26T16:00:00Z`."""
    created_before: str | None
    """What `created_at` is before."""
    batch_id: str | None
    error_code: str | None
    """The `error_detail.code` of failed jobs, `cancelled` for cancelled ones."""
    workflow: str | None
    """The name of the workflow that was submitted by name."""
    metadata: Mapping[str, str]
    """Labels that the job has, with these values."""

"""The filters of GET /v1/jobs: their parameters, and their conversion from a request to a `JobFilter`."""

import re
from collections.abc import Mapping
from datetime import datetime

from starlette.datastructures import QueryParams

from app.fields import MAX_METADATA_NAME, MAX_METADATA_TEXT
from app.operations import JOB_ID, Parameter
from app.problems import Problem
from storage.jobs.filters import JobFilter
from storage.jobs.record import CANCELLED, Status

MAX_FILTER_TEXT = 200
"""Longest name of a workflow, error code or batch id in a filter."""

_METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_TIME: Mapping[str, object] = {"type": "string", "format": "date-time", "examples": ["2026-11-26T16:00:00Z"]}

FILTERS = (
    Parameter("status", "query", {"enum": [*map(str, Status)]}, "only jobs of this status"),
    Parameter(
        "error_code",
        "query",
        {"type": "string", "maxLength": MAX_FILTER_TEXT, "examples": [CANCELLED]},
        "only failed jobs with this error code; `cancelled` for cancelled ones",
    ),
    Parameter(
        "workflow",
        "query",
        {"type": "string", "maxLength": MAX_FILTER_TEXT, "examples": ["wan22"]},
        "only jobs of the workflow with this name",
    ),
    Parameter("batch_id", "query", {"type": "string", "examples": [JOB_ID]}, "only jobs of this batch"),
    Parameter(
        "metadata",
        "query",
        {
            "type": "object",
            "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_TEXT},
            "examples": [{"order": "4711"}],
        },
        "only jobs with this metadata, as `metadata[order]=4711`; with several, jobs that have them all",
    ),
    Parameter("created_after", "query", dict(_TIME), "only jobs created at this time (RFC 3339) or later"),
    Parameter("created_before", "query", dict(_TIME), "only jobs created before this time (RFC 3339)"),
)


def job_filter(query: QueryParams, *, max_metadata_pairs: int) -> JobFilter:
    """Return the filter that the query describes. Raises `Problem`."""
    status, error_code = _status(query), _text(query, "error_code")
    if error_code is not None and status not in (None, Status.FAILED):
        detail = f"error_code is given with status={status}, and only failed jobs have an error code; leave status out"
        raise Problem("invalid-parameter", detail)
    return JobFilter(
        status=status,
        error_code=error_code,
        workflow_name=_text(query, "workflow"),
        batch_id=_text(query, "batch_id"),
        metadata=_metadata(query, max_metadata_pairs),
        created_after=_time(query, "created_after"),
        created_before=_time(query, "created_before"),
    )


def _status(query: QueryParams) -> Status | None:
    text = query.get("status")
    if not text:
        return None
    try:
        return Status(text)
    except ValueError:
        hint = f"; a cancelled job is failed: use error_code={CANCELLED}" if text in (CANCELLED, "canceled") else ""
        detail = f"status is {text[:50]!r}, not one of {', '.join(Status)}{hint}"
        raise Problem("invalid-parameter", detail) from None


def _text(query: QueryParams, name: str) -> str | None:
    """Return the parameter's value; None if it is missing or empty, as an empty field of a form."""
    text = query.get(name)
    if text is not None and len(text) > MAX_FILTER_TEXT:
        raise Problem("invalid-parameter", f"{name} has {len(text)} characters, at most {MAX_FILTER_TEXT} are allowed")
    return text or None


def _metadata(query: QueryParams, most: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for parameter, text in query.multi_items():
        if (match := _METADATA.fullmatch(parameter)) is None:
            continue
        name = match[1]
        if not name or len(name) > MAX_METADATA_NAME or len(text) > MAX_METADATA_TEXT:
            detail = (
                f"{parameter[:80]} needs a name of 1 to {MAX_METADATA_NAME} characters and a value of at most "
                f"{MAX_METADATA_TEXT}"
            )
            raise Problem("invalid-parameter", detail)
        if found.get(name, text) != text:
            raise Problem("invalid-parameter", f"{parameter} is given with two values, and a job has only one")
        found[name] = text
    if len(found) > most:
        raise Problem("invalid-parameter", f"{len(found)} pairs of metadata are given, and a job has at most {most}")
    return found


def _time(query: QueryParams, name: str) -> datetime | None:
    text = query.get(name)
    if not text:
        return None
    if not _RFC_3339.fullmatch(text):
        raise _not_a_time(name, text)
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError:  # a month 13, or an offset of 99 hours
        raise _not_a_time(name, text) from None


def _not_a_time(name: str, text: str) -> Problem:
    detail = f"{name} is {text[:50]!r}, not a time as in RFC 3339, such as 2026-11-26T16:00:00Z"
    # In a query a plus sign stands for a blank.
    hint = "; write the + of the offset as %2B" if " " in text else ""
    return Problem("invalid-parameter", detail + hint)

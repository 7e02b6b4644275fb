"""The filters of GET /v1/jobs are parsed strictly, and a fault names its parameter and what to send instead."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from starlette.datastructures import QueryParams

from app.api.job_filter import MAX_FILTER_TEXT, job_filter
from app.problems import Problem
from storage.jobs.filters import JobFilter
from storage.jobs.record import Status


def parsed(query: str) -> JobFilter:
    return job_filter(QueryParams(query), max_metadata_pairs=2)


def test_every_filter_is_parsed() -> None:
    """Each parameter sets its own part of the filter."""
    query = (
        "status=failed&error_code=cancelled&workflow=wan22&batch_id=b&metadata[order]=4711&metadata[a%20b]="
        "&created_after=2026-11-26T16:00:00Z&created_before=2026-11-26T18:30:00.25%2B02:00"
    )
    assert parsed(query) == JobFilter(
        status=Status.FAILED,
        error_code="cancelled",
        workflow_name="wan22",
        batch_id="b",
        metadata={"order": "4711", "a b": ""},
        created_after=datetime(2026, 11, 26, 16, tzinfo=UTC),
        created_before=datetime(2026, 11, 26, 18, 30, 0, 250_000, timezone(timedelta(hours=2))),
    )


def test_empty_parameters_filter_nothing() -> None:
    """An empty parameter, as a form sends it, is no filter."""
    assert parsed("status=&error_code=&workflow=&batch_id=&created_after=&created_before=") == JobFilter()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("status=done", "status is 'done', not one of queued, running, completed, failed"),
        ("status=cancelled", "a cancelled job is failed: use error_code=cancelled"),
        ("status=queued&error_code=timeout", "only failed jobs have an error code"),
        (f"workflow={'x' * (MAX_FILTER_TEXT + 1)}", f"at most {MAX_FILTER_TEXT} are allowed"),
        ("metadata[]=1", "metadata[] needs a name"),
        (f"metadata[{'x' * 65}]=1", "needs a name of 1 to 64"),
        (f"metadata[a]={'x' * 513}", "a value of at most 512"),
        ("metadata[a]=1&metadata[a]=2", "metadata[a] is given with two values"),
        ("metadata[a]=1&metadata[b]=1&metadata[c]=1", "3 pairs of metadata are given, and a job has at most 2"),
        ("created_after=yesterday", "created_after is 'yesterday', not a time as in RFC 3339"),
        ("created_after=2026-11-26", "such as 2026-11-26T16:00:00Z"),
        ("created_after=2026-11-26T16:00:00", "not a time"),
        ("created_before=2026-13-26T16:00:00Z", "created_before is '2026-13"),
        ("created_before=2026-11-26T16:00:00+02:00", "write the + of the offset as %2B"),
        ("created_before=2026-11-26T16:00:00%2B99:00", "not a time"),
    ],
)
def test_a_fault_names_its_parameter(query: str, said: str) -> None:
    """A filter that means nothing is refused with its name, its value and what to send."""
    with pytest.raises(Problem) as refused:
        parsed(query)
    assert refused.value.type.slug == "invalid-parameter"
    assert said in refused.value.detail

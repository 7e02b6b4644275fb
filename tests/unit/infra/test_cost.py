"""Costs, summed over the list of jobs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.cli.cost import Sum, moment, summed

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def job(*parts: tuple[str | None, float, float | None], status: str = "completed", shape: str = "s") -> dict[str, Any]:
    by_gpu = [{"gpu": gpu, "gpu_seconds": seconds, "usd": usd} for gpu, seconds, usd in parts]
    return {"status": status, "workflow_shape": shape, "cost": {"by_gpu": by_gpu}}


def test_jobs_are_summed_by_gpu_shape_and_status() -> None:
    """A job that used two GPUs counts in the row of each and once in the total."""
    costs = summed(
        [
            job(("L40S", 10.0, 0.01)),
            job(("L40S", 20.0, 0.02)),
            job(("L40S", 5.0, 0.005), status="failed"),
            job(("L40S", 1.0, 0.001), ("H100", 2.0, 0.004), shape="t"),
        ]
    )
    assert costs.rows == {
        ("L40S", "s", "completed"): Sum(2, 30.0, 0.03),
        ("L40S", "s", "failed"): Sum(1, 5.0, 0.005),
        ("L40S", "t", "completed"): Sum(1, 1.0, 0.001),
        ("H100", "t", "completed"): Sum(1, 2.0, 0.004),
    }
    assert costs.total == Sum(4, 38.0, 0.04)


def test_unpriced_gpu_time_is_summed_separately() -> None:
    """GPU time without a known price is summed separately, and a job that never ran still counts as a job."""
    costs = summed([job(("X", 3.0, None)), job((None, 4.0, None)), job(status="queued")])
    assert costs.total == Sum(3, 7.0, 0.0, unpriced_gpu_seconds=3.0)
    assert costs.rows[None, "s", "queued"] == Sum(1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("7d", NOW - timedelta(days=7)),
        ("12h", NOW - timedelta(hours=12)),
        ("30m", NOW - timedelta(minutes=30)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T10:00:00+02:00", datetime(2026, 11, 1, 8, tzinfo=UTC)),
    ],
)
def test_since_accepts_a_span_or_a_date(text: str, found: datetime) -> None:
    """`--since` accepts a span before now or a date, in UTC unless it has an offset."""
    assert moment(text, NOW) == found


@pytest.mark.parametrize("text", ["", "yesterday", "7w", "d", "99999d999"])
def test_an_invalid_since_is_refused(text: str) -> None:
    """`--since` refuses text that is neither a span nor a date."""
    with pytest.raises(ValueError, match=r"."):
        moment(text, NOW)

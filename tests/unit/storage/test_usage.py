"""How long workers held a job and what that costs, for every way in which an attempt ends."""

from datetime import UTC, datetime, timedelta

import pytest

from storage.jobs.models import (
    ErrorDetail,
    GpuTime,
    Lease,
    ProgressDetails,
    Runtime,
    total_seconds,
    total_usd,
    with_time,
)
from storage.jobs.record import JobRecord

NOW = datetime(2026, 11, 23, tzinfo=UTC)
L40S = Runtime(worker="w", gpu="L40S", attention="sage", usd_per_s=0.0005)
ERROR = ErrorDetail(code="node_error", message="it broke")


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def running(runtime: Runtime | None = L40S) -> JobRecord:
    job = JobRecord(tenant="default", job_id="j", timeout_s=600, workflow_shape="s", created_at=NOW)
    return job.claim(worker="w", now=NOW, lease_s=60, runtime=runtime)


def reported(job: JobRecord, at: float) -> JobRecord:
    return job.report(attempt=job.attempt, now=after(at), lease_s=60, progress=5, details=ProgressDetails(), outputs=())


@pytest.mark.parametrize("end", ["complete", "fail", "requeue", "release"])
def test_an_attempt_counts_from_its_claim_to_its_end(end: str) -> None:
    """The time of an attempt runs from its claim to its end, however it ends."""
    job = running()
    ended = {
        "complete": lambda: job.complete(attempt=1, now=after(20), outputs=()),
        "fail": lambda: job.fail(attempt=1, now=after(20), error=ERROR),
        "requeue": lambda: job.requeue(attempt=1, now=after(20), fault=ERROR),
        "release": lambda: job.release(attempt=1, now=after(20)),
    }[end]()
    assert ended.usage == ended.gpu_time == (GpuTime(gpu="L40S", seconds=20.0, usd=0.01),)
    assert ended.runtime == L40S


def test_attempts_add_up_by_gpu() -> None:
    """Attempts are summed by GPU at the price of each, with the last used GPU last."""
    a100 = Runtime(worker="v", gpu="A100-80GB", usd_per_s=0.001)
    job = running().requeue(attempt=1, now=after(10), fault=ERROR)
    job = job.claim(worker="v", now=after(100), lease_s=60, runtime=a100).release(attempt=2, now=after(130))
    job = job.claim(worker="w", now=after(200), lease_s=60, runtime=L40S).complete(
        attempt=3, now=after(230), outputs=()
    )
    assert job.usage == (
        GpuTime(gpu="A100-80GB", seconds=30.0, usd=0.03),
        GpuTime(gpu="L40S", seconds=40.0, usd=0.02),
    )
    assert (total_seconds(job.usage), total_usd(job.usage)) == (70.0, 0.05)


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_lost_worker_counts_until_its_last_report(max_attempts: int) -> None:
    """The time of a lost worker counts until its last report, whether the job is repeated or fails."""
    job = reported(running(), 30)
    assert job.gpu_time == (GpuTime(gpu="L40S", seconds=30.0, usd=0.015),)
    lost = job.expire(now=after(500), max_attempts=max_attempts)
    assert lost.usage == job.gpu_time
    assert running().expire(now=after(500), max_attempts=max_attempts).usage == (
        GpuTime(gpu="L40S", seconds=0.0, usd=0.0),
    )


@pytest.mark.parametrize("now", [100, 5000])
def test_a_lost_worker_of_an_ended_job_counts_the_same(now: int) -> None:
    """The time of a lost worker counts the same if the job was cancelled or timed out."""
    job = reported(running(), 30)
    cancelled = job.cancel(now=after(40)) if now == 100 else job
    assert cancelled.expire(now=after(now), max_attempts=3).usage == job.gpu_time


def test_a_lease_without_a_renewal_time_adds_no_time() -> None:
    """A lease of an older version, which lacks a renewal time, adds no time until the attempt ends."""
    job = running().model_copy(update={"lease": Lease(worker="w", expires_at=after(60))})
    assert job.gpu_time == ()
    assert job.expire(now=after(500), max_attempts=3).usage == ()
    assert job.complete(attempt=1, now=after(20), outputs=()).usage[0].seconds == 20.0


def test_a_record_of_an_older_version_is_read() -> None:
    """A record of an older version is read without runtime and usage."""
    document = running().model_dump(mode="json", exclude={"runtime", "usage"})
    del document["lease"]["renewed_at"]
    record = JobRecord.model_validate(document)
    assert (record.runtime, record.usage) == (None, ())


def test_without_a_gpu_seconds_count_and_cost_nothing() -> None:
    """Time without a GPU has no cost, and leaves the cost of other attempts intact."""
    usage = with_time((), Runtime(worker="w", usd_per_s=1.0), 7.0)
    assert usage == with_time((), None, 7.0) == (GpuTime(gpu=None, seconds=7.0),)
    assert total_usd(usage) is None
    assert total_usd(with_time(usage, L40S, 20.0)) == 0.01


def test_an_unknown_price_makes_the_total_unknown() -> None:
    """The total price is unknown if the price of any part is unknown."""
    usage = with_time(with_time((), L40S, 20.0), Runtime(worker="w", gpu="X"), 5.0)
    assert total_usd(usage) is None
    assert with_time(usage, Runtime(worker="w", gpu="X", usd_per_s=1.0), 5.0)[-1] == GpuTime(gpu="X", seconds=10.0)
    assert with_time((), L40S, -3.0)[0].seconds == 0.0

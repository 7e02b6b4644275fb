"""Converts job and batch records to the models of responses."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from app.config import ApiConfig
from app.wire.batches import BatchJob, BatchUrls, BatchView
from app.wire.jobs import (
    CostView,
    ErrorView,
    GpuCost,
    JobRow,
    JobUrls,
    JobView,
    NodeWarning,
    OutputUrl,
    OutputView,
    ProgressView,
    RuntimeView,
    TimingsView,
)
from storage.batches import BatchRecord
from storage.bucket.objects import ObjectStore
from storage.jobs.models import ErrorDetail, Output, Runtime
from storage.jobs.record import JobRecord, Status
from storage.jobs.usage import total_seconds, total_usd
from storage.keys import DEFAULT_POOL


def job_urls(job_id: str, base: str) -> JobUrls:
    url = f"{base}/v1/jobs/{job_id}"
    return JobUrls(self=url, cancel=url, workflow=f"{url}/workflow", logs=f"{url}/logs")


def job_row(record: JobRecord) -> JobRow:
    return JobRow(
        job_id=record.job_id,
        status=record.status,
        created_at=record.created_at,
        progress=record.progress,
        has_warnings=bool(record.warnings),
        workflow_shape=record.workflow_shape,
        cost=_cost_view(record),
    )


def job_view(record: JobRecord, objects: ObjectStore, config: ApiConfig, base: str) -> JobView:
    """Return the whole job. Each output gets a fresh presigned URL, which is computed without a bucket request."""
    return JobView(
        job_id=record.job_id,
        status=record.status,
        created_at=record.created_at,
        started_at=record.started_at,
        completed_at=record.completed_at,
        cancel_requested_at=record.cancel_requested_at,
        progress=record.progress,
        progress_details=ProgressView.model_validate(record.progress_details.model_dump()),
        outputs=[output_view(output, objects, config) for output in record.outputs],
        error=record.error,
        error_detail=_error_view(record.error_detail),
        warnings=warnings_view(record.warnings),
        last_fault=_error_view(record.last_fault),
        priority=record.priority,
        timeout_s=record.timeout_s,
        queue_timeout_s=record.queue_timeout_s,
        attempt=record.attempt,
        gpu=None if record.pool == DEFAULT_POOL else record.pool,
        runtime=_runtime_view(record.runtime),
        timings=TimingsView(start=record.runtime.start if record.runtime else None),
        cost=_cost_view(record),
        expires_at=record.due_at if record.status.is_terminal else None,
        batch_id=record.batch_id,
        graphs=record.graphs,
        metadata=record.metadata,
        urls=job_urls(record.job_id, base),
    )


def warnings_view(warnings: Mapping[str, Any]) -> dict[str, NodeWarning]:
    return {node_id: NodeWarning.model_validate(warning) for node_id, warning in warnings.items()}


def batch_view(record: BatchRecord, statuses: Mapping[str, Status | None], base: str) -> BatchView:
    """Return the batch. `statuses` maps job ids to statuses, None for a removed job."""
    warned = {record.job_ids[position] for position in record.warned}
    jobs = [
        BatchJob(job_id=job_id, status=status or "removed", has_warnings=job_id in warned)
        for job_id, status in statuses.items()
    ]
    counts = Counter(str(job.status) for job in jobs)
    url = f"{base}/v1/batches/{record.batch_id}"
    return BatchView(
        batch_id=record.batch_id,
        status=_batch_status(counts),
        created_at=record.created_at,
        cancel_requested_at=record.cancel_requested_at,
        total=len(jobs),
        counts={status: counts[status] for status in (*map(str, Status), "removed")},
        jobs=jobs,
        metadata=record.metadata,
        urls=BatchUrls(self=url, cancel=url),
    )


def _batch_status(counts: Mapping[str, int]) -> Literal["queued", "running", "finished"]:
    if not counts[Status.QUEUED] and not counts[Status.RUNNING]:
        return "finished"
    return "queued" if counts[Status.QUEUED] == sum(counts.values()) else "running"


def _runtime_view(runtime: Runtime | None) -> RuntimeView | None:
    return None if runtime is None else RuntimeView.model_validate(runtime.model_dump(exclude={"usd_per_s", "start"}))


def _cost_view(record: JobRecord) -> CostView:
    spent = record.gpu_time
    return CostView(
        gpu=spent[-1].gpu if spent else None,
        gpu_seconds=total_seconds(spent),
        usd=total_usd(spent),
        by_gpu=[GpuCost(gpu=one.gpu, gpu_seconds=one.seconds, usd=one.usd) for one in spent],
    )


def _error_view(error: ErrorDetail | None) -> ErrorView | None:
    return None if error is None else ErrorView.model_validate(error.model_dump())


def output_url(output: Output, objects: ObjectStore, config: ApiConfig) -> OutputUrl:
    signed = objects.presign_get(
        output.key,
        expires_s=config.output_expires_s,
        filename=output.filename,
        content_type=output.content_type,
    )
    return OutputUrl(url=signed.url, url_expires_at=signed.expires_at)


def output_view(output: Output, objects: ObjectStore, config: ApiConfig) -> OutputView:
    signed = output_url(output, objects, config)
    return OutputView(**output.model_dump(exclude={"key"}), **signed.model_dump())

"""Records as clients see them."""

from app.config import ApiConfig
from app.wire import ErrorView, JobRow, JobUrls, JobView, OutputUrl, OutputView, ProgressView
from storage.objects import ObjectStore
from storage.record import JobRecord, Output


def job_urls(job_id: str, base: str) -> JobUrls:
    url = f"{base}/v1/jobs/{job_id}"
    return JobUrls(self=url, cancel=url, workflow=f"{url}/workflow")


def job_row(record: JobRecord) -> JobRow:
    return JobRow(job_id=record.job_id, status=record.status, created_at=record.created_at, progress=record.progress)


def job_view(record: JobRecord, objects: ObjectStore, config: ApiConfig, base: str) -> JobView:
    """Every output with a fresh presigned URL: computed, no request is made."""
    return JobView(
        job_id=record.job_id,
        status=record.status,
        created_at=record.created_at,
        started_at=record.started_at,
        completed_at=record.completed_at,
        cancel_requested_at=record.cancel_requested_at,
        progress=record.progress,
        progress_details=ProgressView.model_validate(record.progress_details.model_dump()),
        outputs=[_output_view(output, objects, config) for output in record.outputs],
        error=record.error,
        error_detail=ErrorView.model_validate(record.error_detail.model_dump()) if record.error_detail else None,
        priority=record.priority,
        timeout_s=record.timeout_s,
        attempt=record.attempt,
        metadata=record.metadata,
        urls=job_urls(record.job_id, base),
    )


def output_url(output: Output, objects: ObjectStore, config: ApiConfig) -> OutputUrl:
    signed = objects.presign_get(
        output.key,
        expires_s=config.output_expires_s,
        filename=output.filename,
        content_type=output.content_type,
    )
    return OutputUrl(url=signed.url, url_expires_at=signed.expires_at)


def _output_view(output: Output, objects: ObjectStore, config: ApiConfig) -> OutputView:
    signed = output_url(output, objects, config)
    return OutputView(**output.model_dump(exclude={"key"}), **signed.model_dump())

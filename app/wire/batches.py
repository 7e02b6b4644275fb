"""The request and response bodies of batches."""

from typing import Any, Literal

from pydantic import (
    Field,
)

from app.wire.base import Answer, Many, Moment
from app.wire.jobs import InputValue, JobOptions, JobRequest
from storage.jobs.record import Status


class BatchRequest(JobOptions):
    """What POST /v1/batches takes: `workflow` and `input_sets`, or `jobs`."""

    workflow: Any = Field(None, description="ComfyUI's API-format graph, of every job")
    input_sets: Many[Many[InputValue]] | None = Field(None, description="the inputs of one job each")
    jobs: Many[JobRequest] | None = Field(None, description="whole jobs instead")


class BatchUrls(Answer):
    self: str
    cancel: str


class BatchJob(Answer):
    """`removed` once its time was over."""

    job_id: str
    status: Status | Literal["removed"]
    has_warnings: bool = Field(description="whether it was accepted with `warnings`: some of its outputs do not run")


class BatchView(Answer):
    """`counts` by status, `removed` included; `status` is finished when every job is over."""

    batch_id: str
    status: Literal["queued", "running", "finished"]
    created_at: Moment
    cancel_requested_at: Moment | None
    total: int
    counts: dict[str, int]
    jobs: list[BatchJob] = Field(description="in the order of the request")
    metadata: dict[str, str]
    urls: BatchUrls

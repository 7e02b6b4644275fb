"""The models of the events' `data`, by event type. Each model's JSON Schema is served and named in `dataschema`."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from app.wire.base import Moment
from app.wire.batches import BatchView
from app.wire.jobs import JobView, OutputView, ProgressView
from storage.jobs.models import BATCH_TYPE, TEST_TYPE, EventName, job_event_type


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True)


class JobQueued(_Data):
    """The job waits for a worker; `attempt` counts how often it was begun already."""

    job_id: str
    attempt: int
    created_at: Moment
    metadata: dict[str, str]


class JobStarted(_Data):
    """A worker has begun the job; `attempt` is the attempt's number."""

    job_id: str
    attempt: int
    started_at: Moment
    metadata: dict[str, str]


class JobProgressed(_Data):
    """How far the job was; a newer event takes the place of one that was not delivered yet."""

    job_id: str
    attempt: int
    progress: int = Field(ge=0, le=100)
    progress_details: ProgressView


class OutputsMade(_Data):
    """Outputs that were stored since the event before, while the job goes on. Empty if that attempt was repeated."""

    job_id: str
    attempt: int
    outputs: list[OutputView]


class WebhookTested(_Data):
    """Someone asked whether this receiver works."""

    message: str


JOB_DATA: Mapping[EventName, type[BaseModel]] = {
    "queued": JobQueued,
    "started": JobStarted,
    "progress": JobProgressed,
    "output": OutputsMade,
    "completed": JobView,
    "failed": JobView,
}

TYPES: Mapping[str, type[BaseModel]] = {
    **{job_event_type(name): model for name, model in JOB_DATA.items()},
    BATCH_TYPE: BatchView,
    TEST_TYPE: WebhookTested,
}
"""Every event type, with the model of its data."""

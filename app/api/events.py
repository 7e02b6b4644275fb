"""Webhook events as CloudEvents 1.0 in structured mode, the body of a Standard Webhooks message.

Each event type has a model of its `data`, whose JSON Schema is served and named in `dataschema`. The id of an event
never changes; the presigned URLs in its data are renewed each time it is rendered.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.api.batches import BatchView, batch_view
from app.api.job_view import QUICKLY_SHOWN, JobView, OutputView, ProgressView, job_view, output_view
from app.config import ApiConfig
from app.fields import Moment
from app.heavy import off_loop
from storage.batch_record import BatchRecord
from storage.bucket.objects import ObjectStore
from storage.jobs.models import BATCH_TYPE, TEST_TYPE, EventName, JobEvent, ProgressDetails, job_event_type
from storage.jobs.record import JobRecord, Status
from storage.outbox import BatchFinished, Committed, JobHappened, TestAsked

SCHEMAS_PATH = "/schemas"

QUICKLY_RENDERED_JOBS = 200
"""Jobs of a batch that are rendered on the event loop, in 1 ms."""

TEST_MESSAGE = "This receiver works: the signature can be verified now."


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


class EventRenderer:
    """Renders events. `config.public_url` is the base of their links, which are relative without it."""

    def __init__(self, objects: ObjectStore, config: ApiConfig) -> None:
        self._objects = objects
        self._config = config
        self._base = (config.public_url or "").rstrip("/")

    def type_of(self, found: Committed) -> str:
        match found:
            case JobHappened(event=event):
                return job_event_type(event.name)
            case BatchFinished():
                return BATCH_TYPE
            case TestAsked():
                return TEST_TYPE

    def is_large(self, found: Committed) -> bool:
        """Report whether the event takes milliseconds to render, and up to some megabytes of memory."""
        match found:
            case JobHappened(record=record):
                return len(record.outputs) > QUICKLY_SHOWN
            case BatchFinished(statuses=statuses):
                return len(statuses) > QUICKLY_RENDERED_JOBS
            case TestAsked():
                return False

    async def render(self, found: Committed) -> tuple[Mapping[str, str], bytes]:
        """Return the headers and the body of the webhook request."""
        return await off_loop(self._render, found) if self.is_large(found) else self._render(found)

    def _render(self, found: Committed) -> tuple[Mapping[str, str], bytes]:
        kind = self.type_of(found)
        attributes: dict[str, Any] = {
            "id": found.ref.event_id,
            "type": kind,
            "time": found.time,
            "datacontenttype": "application/json",
            "dataschema": f"{self._base}{SCHEMAS_PATH}/{kind}.json",
            # CloudEvents compares sequences as text.
            "sequence": f"{found.ref.sequence:08d}",
            "partitionkey": found.ref.id,
        }
        match found:
            case JobHappened(record=record, event=event):
                attributes |= {"source": f"{self._base}/v1/jobs/{record.job_id}", "subject": record.job_id}
                if record.traceparent is not None:
                    attributes["traceparent"] = record.traceparent
                data = self._job_data(record, event)
            case BatchFinished(record=batch, statuses=statuses):
                attributes |= {"source": f"{self._base}/v1/batches/{batch.batch_id}", "subject": batch.batch_id}
                data = self._batch_data(batch, statuses)
            case TestAsked():
                attributes |= {"source": f"{self._base}/v1/webhooks", "subject": found.ref.id}
                data = WebhookTested(message=TEST_MESSAGE)
        return _structured(attributes, data.model_dump(mode="json"))

    def _job_data(self, record: JobRecord, event: JobEvent) -> BaseModel:
        """Return the event's data. A terminal event has the whole job, as GET returns it."""
        about: dict[str, Any] = {"job_id": record.job_id, "attempt": event.attempt}
        match event.name:
            case "completed" | "failed":
                return job_view(record, self._objects, self._config, self._base)
            case "queued":
                return JobQueued(**about, created_at=record.created_at, metadata=record.metadata)
            case "started":
                return JobStarted(**about, started_at=event.time, metadata=record.metadata)
            case "progress":
                details = (event.progress_details or ProgressDetails()).model_dump()
                view = ProgressView.model_validate(details)
                return JobProgressed(**about, progress=event.progress or 0, progress_details=view)
            case "output":
                new_keys = frozenset(event.outputs)
                news = [output for output in record.outputs if output.key in new_keys]
                views = [output_view(record.job_id, output, self._objects, self._config) for output in news]
                return OutputsMade(**about, outputs=views)

    def _batch_data(self, batch: BatchRecord, statuses: Mapping[str, Status | None]) -> BaseModel:
        return batch_view(batch, statuses, self._base)


def schema(kind: str, base: str) -> dict[str, Any]:
    """Return the JSON Schema of an event type's data. Raises KeyError for an unknown type."""
    document: dict[str, Any] = TYPES[kind].model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{base}{SCHEMAS_PATH}/{kind}.json",
        **document,
    }


def _structured(attributes: dict[str, Any], data: dict[str, Any]) -> tuple[Mapping[str, str], bytes]:
    """Encode a CloudEvent in structured mode."""
    # Imported here because the API serves schemas but renders no events, and the import slows its start.
    from cloudevents.core.bindings.http import to_structured
    from cloudevents.core.formats.json import JSONFormat
    from cloudevents.core.v1.event import CloudEvent

    message = to_structured(CloudEvent(attributes, data), JSONFormat())
    return message.headers, message.body

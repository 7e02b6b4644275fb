"""Records for tests."""

import uuid
from datetime import UTC, datetime
from typing import Any

from storage.jobs.models import InputFile, Output
from storage.jobs.record import JobRecord

CREATED = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

OUTPUT = Output(
    filename="blue_00001_.png",
    type="image",
    node_id="2",
    key="tenants/default/jobs/x/outputs/001/0000/blue_00001_.png",
    size_bytes=3,
    content_type="image/png",
    sha256="0" * 64,
    width=8,
    height=8,
    frames=1,
)


def itself(record: JobRecord) -> JobRecord:
    """The row of a page whose test needs the records."""
    return record


def a_job(**fields: Any) -> JobRecord:
    """Return a queued job; every field may be set."""
    standard: dict[str, Any] = {
        "tenant": "default",
        "job_id": str(uuid.uuid4()),
        "timeout_s": 60,
        "workflow_shape": "shape",
        "created_at": CREATED,
    }
    return JobRecord(**(standard | fields))


def input_file(key: str, name: str = "a.png") -> InputFile:
    """Return an input file of a job of which only the key matters."""
    return InputFile(name=name, key=key, size_bytes=1, content_type="image/png")

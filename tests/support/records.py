"""Records for tests."""

import uuid
from datetime import UTC, datetime
from typing import Any

from storage.jobs.record import JobRecord

CREATED = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def a_job(**fields: Any) -> JobRecord:
    """A queued job; every field may be set."""
    standard: dict[str, Any] = {
        "tenant": "default",
        "job_id": str(uuid.uuid4()),
        "timeout_s": 60,
        "workflow_shape": "shape",
        "created_at": CREATED,
    }
    return JobRecord(**(standard | fields))

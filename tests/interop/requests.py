"""Requests as the deliverer sends them, one of each type, with the secret that verifies them."""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args

from app.api.events import EventRenderer
from app.config import ApiConfig
from storage.batch_record import BatchRecord
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.index_keys import EventRef
from storage.jobs.models import ErrorDetail, EventName, Output, ProgressDetails
from storage.jobs.record import JobRecord, Status
from storage.outbox import BatchFinished, Committed, JobHappened, TestAsked
from storage.webhooks.signing import Signer, new_secret
from tests.support.records import a_job

URL = "https://receiver.example/hook"
TEST_ID = "5d1f2a52-3f0f-4d2a-8a39-5d8f0f9a6c11"
OUTPUT = Output(
    filename="blü 1.png", type="image", node_id="2", key="x/outputs/001/0000/0.png",
    size_bytes=3, content_type="image/png", sha256="6f" * 32,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SignedEvent:
    """One request with its `headers` and `body`."""

    type: str
    headers: Mapping[str, str]
    body: bytes


def signed_events(now: datetime, secrets: tuple[str, ...], ed25519_key: str | None = None) -> list[SignedEvent]:
    """Return one event of each type, in the order of a job's life."""
    renderer = EventRenderer(
        MemoryObjectStore(ManualClock(now)), ApiConfig(api_key=None, public_url="https://api.example")
    )
    signer = Signer(secrets, ed25519_key)
    made = []
    for found in (*_of_job(_completed(now)), *_of_job(_failed(now))[-1:], _batch(now), _tested(now)):
        headers, body = asyncio.run(renderer.render(found))
        signature = signer.headers(found.ref.event_id, int(now.timestamp()), body)
        made.append(SignedEvent(renderer.type_of(found), {**headers, **signature}, body))
    return made


def _of_job(record: JobRecord) -> list[Committed]:
    return [
        JobHappened(EventRef(record.tenant, "job", record.job_id, event.sequence), URL, record, event)
        for event in record.events
    ]


def _running(now: datetime) -> JobRecord:
    names: tuple[EventName, ...] = get_args(EventName)
    record = a_job(created_at=now, webhook_url=URL, webhook_events=names, metadata={"order": "47|11 ü"})
    return record.initial().claim(worker="w", now=now, lease_s=60)


def _completed(now: datetime) -> JobRecord:
    details = ProgressDetails(current_node="2", nodes_completed=1, nodes_total=2)
    reported = _running(now).report(attempt=1, now=now, lease_s=60, progress=50, details=details, outputs=(OUTPUT,))
    (progress,) = (event for event in reported.events if event.name == "progress")
    ended = reported.complete(attempt=1, now=now, outputs=(OUTPUT,))
    return ended.model_copy(update={"events": (*ended.events[:-1], progress, ended.events[-1])})


def _failed(now: datetime) -> JobRecord:
    error = ErrorDetail(
        code="node_failed", message="Größe passt nicht", node_id="2", class_type="ImageScale", attempt=1
    )
    return _running(now).fail(attempt=1, now=now, error=error)


def _batch(now: datetime) -> Committed:
    jobs = {str(uuid.UUID(int=1)): Status.COMPLETED, str(uuid.UUID(int=2)): Status.FAILED}
    record = BatchRecord(
        tenant="default", batch_id=TEST_ID, state="open", job_ids=tuple(jobs), created_at=now, webhook_url=URL,
        finished_at=now,
    )  # fmt: skip
    return BatchFinished(EventRef("default", "batch", TEST_ID, 1), URL, now, record, jobs)


def _tested(now: datetime) -> Committed:
    return TestAsked(EventRef("default", "test", TEST_ID, 1), URL, now)


def as_json(secret: str, events: list[SignedEvent]) -> dict[str, Any]:
    """Return the document that tests/interop/check.mjs reads."""
    return {
        "secret": secret,
        "requests": [{"type": e.type, "headers": dict(e.headers), "body": e.body.decode()} for e in events],
    }


def main() -> None:
    """Write the requests to standard output, signed now with two secrets, as during a rotation, and an ed25519 key."""
    import base64
    import json
    import secrets
    import sys

    secret, key = new_secret(), "whsk_" + base64.b64encode(secrets.token_bytes(32)).decode()
    events = signed_events(datetime.now(UTC), (new_secret(), secret), key)
    sys.stdout.write(json.dumps(as_json(secret, events)))


if __name__ == "__main__":
    main()

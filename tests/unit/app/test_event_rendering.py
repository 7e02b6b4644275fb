"""Rendering of webhook events without holding up other deliveries."""

import asyncio
from datetime import UTC, datetime

import pytest

from app.api.events import EventRenderer
from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.index_keys import EventRef
from storage.jobs.models import Output
from storage.outbox import JobHappened
from tests.support.records import a_job

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("outputs", "is_aside"), [(1, False), (500, True)])
async def test_a_large_event_leaves_the_event_loop(outputs: int, *, is_aside: bool) -> None:
    """The event loop goes on while an event with many outputs is rendered; a small one is rendered at once."""
    made = tuple(
        Output(
            filename=f"{number}.png",
            type="image",
            node_id="1",
            key=f"tenants/default/jobs/x/outputs/001/{number:04}/{number}.png",
            size_bytes=1,
            content_type="image/png",
            sha256="a" * 64,
        )
        for number in range(outputs)
    )
    running = a_job(created_at=NOW, webhook_url="https://r.example", webhook_events=("completed",)).initial()
    record = running.claim(worker="w", now=NOW, lease_s=60).complete(attempt=1, now=NOW, outputs=made)
    event = record.events[-1]
    found = JobHappened(
        EventRef(record.tenant, "job", record.job_id, event.sequence), "https://r.example", record, event
    )
    renderer = EventRenderer(MemoryObjectStore(ManualClock(NOW)), ApiConfig(api_key=None))
    rendering = asyncio.create_task(renderer.render(found))
    await asyncio.sleep(0)
    assert rendering.done() is not is_aside
    _, body = await rendering
    assert body.count(b'"filename"') == outputs

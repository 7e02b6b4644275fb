"""The place of a queued job in its pool's queue, which one LIST tells to everyone who asks within two seconds."""

from app.api.context import Context
from app.auth import NO_TENANT
from app.problems import Problem
from storage.errors import StorageError
from storage.jobs.record import JobRecord, Status

QUEUE_AGE_S = 2.0
"""How old the queue may be by which a position is counted, in seconds."""


async def queue_position(context: Context, record: JobRecord) -> int | None:
    """Return the place of a queued job, 1 for the next one; None for another job, and where it is unknown."""
    if record.status is not Status.QUEUED:
        return None
    queue = context.stores.queue
    try:
        # Of no tenant, because the queue is that of a pool.
        first = await context.shared.get(
            NO_TENANT, ("queue", record.pool), lambda: queue.first(record.pool), max_age_s=QUEUE_AGE_S
        )
    except (StorageError, Problem):  # the position is informative: the job is shown without it
        return None
    return queue.position(record, first)

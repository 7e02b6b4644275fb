"""Many jobs in a bucket: all index keys of a kind, and the records that a read reaches first.

They are written with the product's own keys and records, because a submission for each would write six objects.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.jobs.index import list_key, queue_key, status_key
from storage.jobs.models import Output, Runtime
from storage.jobs.record import JobRecord
from storage.jobs.timers import job_timer
from tests.support.records import a_job

READ = 100
"""The most records that one read reaches: a page of a list, the candidates of a claim, or the jobs of a backlog."""
WAITED = timedelta(hours=1)
AT_ONCE = 32


async def fill_queued(objects: ObjectStore, count: int, now: datetime) -> None:
    """Write jobs queued an hour ago, a millisecond apart: all queue keys, and the records of the first jobs."""
    records = [a_job(created_at=now - WAITED + timedelta(milliseconds=n)) for n in range(count)]
    indexed = dict.fromkeys((queue_key(record) for record in records), b"")
    await _put_all(objects, indexed | {status_key(record): b"" for record in records[:READ]} | _bodies(records[:READ]))


async def fill_finished(objects: ObjectStore, count: int, now: datetime) -> None:
    """Write jobs that ended an hour ago: their list entries, their timers, and the records of the newest."""
    records = [completed(now - WAITED + timedelta(milliseconds=n)) for n in range(count)]
    indexed = dict.fromkeys((list_key(record) for record in records), b"")
    indexed |= dict.fromkeys((_timer_key(record) for record in records), b"")
    await _put_all(objects, indexed | _bodies(records[-READ:]))


async def fill_listed(objects: ObjectStore, records: Sequence[JobRecord], *, read: int | None = None) -> None:
    """Write the entries of these jobs in the lists, and the records of the last `read` of them, or of all."""
    indexed = dict.fromkeys((key(record) for record in records for key in (list_key, status_key)), b"")
    await _put_all(objects, indexed | _bodies(records[-read:] if read else records))


def completed(created_at: datetime, *, outputs: Sequence[Output] = (), **fields: Any) -> JobRecord:
    """Return a job that ended when it was created; its other fields may be set."""
    queued = a_job(created_at=created_at, **fields)
    running = queued.claim(worker="w", now=created_at, lease_s=60, runtime=Runtime(worker="w"))
    return running.complete(attempt=1, now=created_at, outputs=tuple(outputs))


def _timer_key(record: JobRecord) -> str:
    return job_timer(record, record.due_at, now=record.created_at).key


def _bodies(records: Sequence[JobRecord]) -> dict[str, bytes]:
    return {keys.record(one.tenant, one.job_id): one.model_dump_json().encode() for one in records}


async def _put_all(objects: ObjectStore, bodies: Mapping[str, bytes]) -> None:
    """Write the objects roughly in the order of their keys, which is faster on a server."""
    todo = iter(sorted(bodies))

    async def put_some() -> None:
        for key in todo:
            await objects.put(key, bodies[key])

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(put_some())

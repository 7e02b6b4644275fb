"""Pages of a tenant's jobs, newest first. A stale index key is skipped, and deleted if no commit can need it."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.errors import JobNotFound, RecordUnreadable
from storage.index_keys import ListEntry, list_prefix
from storage.index_writer import IndexWriter
from storage.jobs.filters import JobFilter
from storage.jobs.index import list_key, status_key
from storage.jobs.record import JobRecord, Status
from storage.jobs.timers import YOUNG
from storage.pages import Page, Part, read_page

logger = logging.getLogger(__name__)

MOST_SCANNED = 1_000
"""The most records that a page of a filtered list reads: as many as one LIST returns index keys."""


Row = TypeVar("Row")


class JobPages:
    def __init__(
        self,
        objects: ObjectStore,
        clock: Clock,
        index: IndexWriter,
        read: Callable[[str, str], Awaitable[JobRecord]],
        is_missing: Callable[[str, str, JobNotFound], Awaitable[bool]],
    ) -> None:
        """`read` returns the record of a tenant's job; it raises as `JobStore.read`.

        `is_missing` is `JobStore.is_missing`.
        """
        self._objects = objects
        self._clock = clock
        self._index = index
        self._read = read
        self._is_missing = is_missing

    async def page(
        self,
        tenant: str,
        wanted: JobFilter,
        row: Callable[[JobRecord], Row],
        *,
        limit: int,
        cursor: str | None,
        scan: int = MOST_SCANNED,
    ) -> Page[Row]:
        """Return one page: for one LIST and one GET per row, or with `needs_records` up to `scan` GETs.

        The page may then be short, even empty, although more follows: its cursor is set. A record may have megabytes,
        so `row` is applied to each as it is read, and the page holds what it returns.
        """
        part = Part(wanted.first, lambda key: not _is_behind(key, wanted), scan if wanted.needs_records else None)

        async def read(key: str) -> Row | None:
            record = await self._wanted(tenant, wanted, key)
            return None if record is None else row(record)

        prefix = list_prefix(tenant, wanted.index_status)
        return await read_page(self._objects, prefix, read, limit=limit, cursor=cursor, part=part)

    async def _wanted(self, tenant: str, wanted: JobFilter, key: str) -> JobRecord | None:
        """Return the record that an index key names, or None if it is stale or another job is wanted."""
        try:
            entry = ListEntry.parse(key)
        except ValueError:
            return None
        record = await self._current(tenant, wanted.index_status, key, entry)
        return record if record is not None and wanted.matches(record) else None

    async def _current(self, tenant: str, status: Status | None, key: str, entry: ListEntry) -> JobRecord | None:
        """Return the record that an index key names, or None if the key is stale; a key that is old is deleted."""
        try:
            record = await self._read(tenant, entry.job_id)
        except JobNotFound as missing:
            is_old = self._clock.now() - entry.created_at > YOUNG
            if is_old and await self._is_missing(tenant, entry.job_id, missing):
                await self._index.delete((key,))
            return None
        except RecordUnreadable as error:
            logger.warning("a list leaves a job out: %s", error)
            return None
        if key == (list_key(record) if status is None else status_key(record)):
            return record
        # A key that is ahead of the record belongs to a commit under way and stays.
        if status is None or entry.attempt is None or record.outdates(status, entry.attempt):
            await self._index.delete((key,))
        return None


def _is_behind(key: str, wanted: JobFilter) -> bool:
    try:
        return wanted.is_behind(ListEntry.parse(key))
    except ValueError:
        return False

"""Pages of a tenant's jobs, newest first: index keys are listed, and the records that they name are read.

A page costs the same however many jobs there are. A stale index key is skipped, and deleted if no commit can need it.
"""

import base64
import binascii
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import BadCursor, JobNotFound, RecordUnreadable
from storage.index_keys import LIST_ENTRY, ListEntry, list_prefix
from storage.index_writer import IndexWriter
from storage.jobs.filters import JobFilter
from storage.jobs.index import list_key, status_key
from storage.jobs.record import JobRecord, Status
from storage.jobs.timers import YOUNG

logger = logging.getLogger(__name__)

MAX_LISTS = 4
"""Maximum LISTs per page. If stale index keys use them up, the page is short and its cursor continues the list."""

MOST_SCANNED = 1_000
"""The most records that a page of a filtered list reads: as many as one LIST returns index keys."""

WAVE = 64
"""Records that a filtered list reads between two checks whether the page is full."""


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of a job list, newest first. `next_cursor` is None on the last page."""

    jobs: tuple[JobRecord, ...]
    next_cursor: str | None


class JobPages:
    def __init__(
        self,
        objects: ObjectStore,
        clock: Clock,
        index: IndexWriter,
        read: Callable[[str, str], Awaitable[JobRecord]],
    ) -> None:
        """`read` returns the record of a tenant's job; it raises as `JobStore.read`."""
        self._objects = objects
        self._clock = clock
        self._index = index
        self._read = read

    async def page(
        self, tenant: str, wanted: JobFilter, *, limit: int, cursor: str | None, scan: int = MOST_SCANNED
    ) -> JobPage:
        """Return one page: for one LIST and one GET per row, or with `needs_records` up to `scan` GETs.

        The page may then be short, even empty, although more follows: its cursor is set.
        """
        prefix = list_prefix(tenant, wanted.index_status)
        after = max(_decode_cursor(prefix, cursor), prefix + wanted.first if wanted.first else "")
        found: list[JobRecord] = []
        for _ in range(1 if wanted.needs_records else MAX_LISTS):
            most = scan if wanted.needs_records else limit - len(found)
            listed = await self._objects.list(prefix, after=after, limit=most)
            in_range = tuple(takewhile(lambda key: not _is_behind(key, wanted), listed.keys))
            rows, read = await self._rows(tenant, wanted, in_range, limit - len(found))
            found += rows
            is_last = len(in_range) < len(listed.keys) or not listed.more or not listed.keys
            if is_last and read == len(in_range):
                return JobPage(tuple(found), None)
            after = in_range[read - 1]
            if len(found) >= limit:
                break
        return JobPage(tuple(found), _encode_cursor(after))

    async def _rows(
        self, tenant: str, wanted: JobFilter, index_keys: Sequence[str], limit: int
    ) -> tuple[list[JobRecord], int]:
        """Return the first `limit` records that match, and how many of the keys they took."""
        found: list[JobRecord] = []
        read = 0
        while read < len(index_keys):
            wave = index_keys[read : read + max(limit, WAVE)]
            for record in await map_bounded(wave, lambda key: self._row(tenant, wanted, key)):
                read += 1
                if record is not None:
                    found.append(record)
                if len(found) == limit:
                    return found, read
        return found, read

    async def _row(self, tenant: str, wanted: JobFilter, key: str) -> JobRecord | None:
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
        except JobNotFound:
            if self._clock.now() - entry.created_at > YOUNG:
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


def _encode_cursor(key: str) -> str:
    entry = key.rsplit("/", 1)[1]
    return base64.urlsafe_b64encode(entry.encode()).decode().rstrip("=")


def _decode_cursor(prefix: str, cursor: str | None) -> str:
    if cursor is None:
        return ""
    try:
        entry = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
    except (ValueError, binascii.Error):
        raise BadCursor(cursor) from None
    if not LIST_ENTRY.fullmatch(entry):
        raise BadCursor(cursor)
    return prefix + entry

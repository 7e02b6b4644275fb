"""Pages of a tenant's batches, newest first, each with how many of its jobs are in which status."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from storage import keys
from storage.batch_record import BatchRecord
from storage.batches import BatchStore
from storage.bucket.objects import ObjectStore, is_absent
from storage.clock import Clock
from storage.errors import BatchGone, BatchNotFound, RecordUnreadable
from storage.index_keys import BATCHES, ListEntry, list_prefix
from storage.index_writer import IndexWriter
from storage.jobs.record import Status
from storage.jobs.timers import ABANDONED
from storage.pages import Page, read_page

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CountedBatch:
    """A batch and its jobs by status, None for removed ones."""

    record: BatchRecord
    counts: Mapping[Status | None, int]


class BatchPages:
    def __init__(self, batches: BatchStore, objects: ObjectStore, clock: Clock) -> None:
        self._batches = batches
        self._objects = objects
        self._clock = clock
        self._index = IndexWriter(objects)

    async def page(self, tenant: str, *, limit: int, cursor: str | None) -> Page[CountedBatch]:
        """Return one page: for one LIST, and one GET and one LIST per row and thousand jobs. Raises `BadCursor`.

        A job that is changing at that moment costs a GET more.
        """
        prefix = list_prefix(tenant, BATCHES)
        return await read_page(self._objects, prefix, lambda key: self._row(tenant, key), limit=limit, cursor=cursor)

    async def _row(self, tenant: str, key: str) -> CountedBatch | None:
        """Return the batch that an index key names, or None if the key is stale; a key that is old is deleted."""
        try:
            entry = ListEntry.parse(key)
            record_key = keys.batch(tenant, entry.job_id)
        except ValueError:
            return None
        try:
            record = (await self._batches.read(tenant, entry.job_id)).record
        except BatchNotFound as error:
            # A draft may still be opened, by the request or a repeat of it, until it is abandoned.
            is_old = self._clock.now() - entry.created_at > ABANDONED
            if isinstance(error, BatchGone) or (is_old and await is_absent(self._objects, record_key)):
                await self._index.delete((key,))
            return None
        except RecordUnreadable as error:
            logger.warning("a list leaves a batch out: %s", error)
            return None
        return CountedBatch(record, Counter(await self._batches.rough_statuses(record)))

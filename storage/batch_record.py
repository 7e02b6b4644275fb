"""The record of a batch and its index key. `storage.batches` has the states and the changes."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from storage.bucket.records import Model
from storage.index_keys import BATCHES, EventRef, ListEntry
from storage.jobs.record import DEFAULT_RETAIN_S


class BatchRecord(Model):
    """The content of batch.json. `rev` and `nonce` have the meaning that they have in a job's record."""

    tenant: str
    batch_id: str
    rev: int = 0
    nonce: str = ""
    timer: str = ""
    """The key of the current timer (`storage.timers`)."""
    state: Literal["draft", "open", "abandoned"] = "draft"
    job_ids: tuple[str, ...]
    warned: tuple[int, ...] = ()
    """Positions of the jobs that were accepted with warnings."""
    metadata: dict[str, str] = Field(default_factory=dict)
    created_at: datetime
    cancel_requested_at: datetime | None = None
    webhook_url: str | None = None
    """The receiver of the event that reports the end of every job."""
    finished_at: datetime | None = None
    """When every job was found to have ended. It is checked only if there is a receiver."""
    ended_jobs: int = 0
    """The number of jobs that had ended at the last check."""
    checks_without_end: int = 0
    """The number of checks since the last one that found another job ended."""
    has_webhook_secret: bool = False
    """Whether the batch has its own webhook secret, stored in a separate object."""
    is_reconciled: bool = False
    """Whether its opening and its cancellation are complete: every job was published, or cancelled."""
    retain_s: int = DEFAULT_RETAIN_S

    def moved(self, state: Literal["open", "abandoned"]) -> "BatchRecord":
        """Return a draft in the new state; other batches are unchanged."""
        return self.model_copy(update={"state": state}) if self.state == "draft" else self

    def checked(self, ended_jobs: int) -> "BatchRecord":
        """Return the record after a check that found jobs unfinished."""
        checks = self.checks_without_end + 1 if ended_jobs == self.ended_jobs else 0
        return self.model_copy(update={"ended_jobs": ended_jobs, "checks_without_end": checks})

    @property
    def is_open(self) -> bool:
        return self.state == "open"

    @property
    def expires_at(self) -> datetime:
        return self.created_at + timedelta(seconds=self.retain_s)

    @property
    def finish(self) -> EventRef:
        """The event that reports the batch's end, its only event."""
        return EventRef(self.tenant, "batch", self.batch_id, 1)

    @property
    def awaits_its_end(self) -> bool:
        """Whether there is a receiver and the end of every job is not yet known."""
        return self.webhook_url is not None and self.finished_at is None


@dataclass(frozen=True, slots=True)
class StoredBatch:
    record: BatchRecord
    etag: str


def member_id(batch_id: str, position: int) -> str:
    """Derive a job's id from its position, so that a repeated request continues an interrupted one."""
    return str(uuid.uuid5(uuid.UUID(batch_id), str(position)))


def list_key(record: BatchRecord) -> str:
    """Return the batch's row in the list of batches, which is kept until the batch is removed."""
    return ListEntry(record.created_at, record.batch_id, None).key(record.tenant, BATCHES)


def index_keys(record: BatchRecord) -> set[str]:
    """Return the index keys of the batch itself; its jobs have their own."""
    return {list_key(record)} if record.is_open else set()

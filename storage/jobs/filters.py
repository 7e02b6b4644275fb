"""`JobFilter`: which jobs a list shows, and from where to where its index keys are read.

A status and a time select index keys; anything else is compared with the record.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from storage.index_keys import ListEntry, inverted
from storage.jobs.record import JobRecord, Status
from storage.keys import ms_of, ms_up_of


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What all listed jobs have in common. None, and an empty `metadata`, select every job.

    `created_after` is inclusive and `created_before` exclusive, so that adjacent periods share no job.
    """

    status: Status | None = None
    error_code: str | None = None
    workflow_name: str | None = None
    batch_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_after: datetime | None = None
    created_before: datetime | None = None

    @property
    def index_status(self) -> Status | None:
        """The status whose index keys are listed; None for the list of all jobs."""
        # Only a failed job has an error code.
        return Status.FAILED if self.status is None and self.error_code is not None else self.status

    @property
    def needs_records(self) -> bool:
        """Whether the index keys alone cannot select the jobs, so that more records are read than are shown."""
        return self.error_code is not None or self.workflow_name is not None or bool(self.metadata)

    @property
    def first(self) -> str:
        """The text after which the entries of an index begin that may match."""
        # An entry continues with `-`, so the entries of the last millisecond before the time follow this text.
        return "" if self.created_before is None else inverted(ms_up_of(self.created_before) - 1)

    def is_behind(self, entry: ListEntry) -> bool:
        """Whether this entry of an index, and so every later one, is too old to match."""
        return self.created_after is not None and ms_of(entry.created_at) < ms_of(self.created_after)

    def in_batch(self, created_at: datetime) -> "JobFilter":
        """Return the filter for the jobs of a batch that was created then: they share its time, to the microsecond."""
        # So the list of all jobs serves as the index of a batch's jobs, newest first and with a cursor.
        after, before = created_at, created_at + timedelta(microseconds=1)
        return replace(
            self,
            created_after=after if self.created_after is None else max(after, self.created_after),
            created_before=before if self.created_before is None else min(before, self.created_before),
        )

    def matches(self, record: JobRecord) -> bool:
        return (
            (self.error_code is None or record.error_code == self.error_code)
            and (self.workflow_name is None or record.workflow_name == self.workflow_name)
            and (self.batch_id is None or record.batch_id == self.batch_id)
            and (self.created_after is None or record.created_at >= self.created_after)
            and (self.created_before is None or record.created_at < self.created_before)
            and all(record.metadata.get(name) == text for name, text in self.metadata.items())
        )

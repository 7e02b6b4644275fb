"""`Position`: what a client knows of a job's status and outputs. Event ids are positions as text.

A position says everything that is needed to continue a stream, so any process can continue it from job.json alone.
"""

import re
from dataclasses import dataclass, replace
from typing import Self

from app.streams.ranges import NO_NUMBERS, Ranges
from storage.jobs.models import Output
from storage.jobs.output_ids import OutputId
from storage.jobs.record import JobRecord, Status

NOTHING, STOPPING = "none", "stopping"
"""The words of a position for a job of which no status is known, and for one whose cancellation was requested."""

_WORDS = (NOTHING, STOPPING, *Status)
_ID = re.compile(rf"(?P<attempt>\d{{1,9}})-(?P<status>{'|'.join(_WORDS)})-(?P<outputs>[0-9.,]{{0,4000}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """`outputs` are the numbers, in the keys of the attempt's outputs, of those that the client has."""

    attempt: int = 0
    status: str = NOTHING
    outputs: Ranges = NO_NUMBERS

    def __str__(self) -> str:
        """Return the event id, such as `1-running-0..3,5`."""
        return f"{self.attempt}-{self.status}-{self.outputs}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an event id. Raises ValueError for text that is none."""
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:60]!r} is not the id of an event")
        return cls(int(match["attempt"]), match["status"], Ranges.parse(match["outputs"]))

    def within(self, record: JobRecord) -> "Position":
        """Return what is still valid of this position: the outputs of an earlier attempt are not."""
        return self if self.attempt == record.attempt else Position(record.attempt)

    def with_status(self, record: JobRecord) -> "Position":
        return replace(self, status=status_word(record))

    def with_output(self, output: Output) -> "Position":
        return replace(self, outputs=self.outputs.with_number(number_of(output)))


def status_word(record: JobRecord) -> str:
    """Return the status, or `STOPPING` for a running job whose cancellation was requested."""
    is_stopping = record.status is Status.RUNNING and record.cancel_requested_at is not None
    return STOPPING if is_stopping else str(record.status)


def number_of(output: Output) -> int:
    """Return the number in the output's key: unlike its place in the list, it never changes."""
    return OutputId.of("", output).position

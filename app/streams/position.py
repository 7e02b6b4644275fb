"""`Position`: what a client knows of a job's status and outputs. Event ids are positions as text.

A position says everything that is needed to continue a stream, so any process can continue it from job.json alone.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from storage.jobs.models import Output
from storage.jobs.output_ids import OutputId
from storage.jobs.record import JobRecord, Status

NOTHING, STOPPING = "none", "stopping"
"""The words of a position for a job of which no status is known, and for one whose cancellation was requested."""

_WORDS = (NOTHING, STOPPING, *Status)
_ID = re.compile(rf"(?P<attempt>\d{{1,9}})-(?P<status>{'|'.join(_WORDS)})-(?P<outputs>[0-9.,]{{0,4000}})", re.ASCII)
_RANGE = re.compile(r"(\d{1,6})(?:\.\.(\d{1,6}))?", re.ASCII)
_MOST_OUTPUTS = 100_000


@dataclass(frozen=True, slots=True)
class Position:
    """`outputs` are the numbers, in the keys of the attempt's outputs, of those that the client has."""

    attempt: int = 0
    status: str = NOTHING
    outputs: frozenset[int] = frozenset()

    def __str__(self) -> str:
        """Return the event id, such as `1-running-0..3,5`."""
        return f"{self.attempt}-{self.status}-{','.join(_ranges(self.outputs))}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an event id. Raises ValueError for text that is none."""
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:60]!r} is not the id of an event")
        return cls(int(match["attempt"]), match["status"], _numbers(match["outputs"]))

    def within(self, record: JobRecord) -> "Position":
        """Return what is still valid of this position: the outputs of an earlier attempt are not."""
        return self if self.attempt == record.attempt else Position(record.attempt)

    def with_status(self, record: JobRecord) -> "Position":
        return replace(self, status=status_word(record))

    def with_output(self, output: Output) -> "Position":
        return replace(self, outputs=self.outputs | {number_of(output)})


def status_word(record: JobRecord) -> str:
    """Return the status, or `STOPPING` for a running job whose cancellation was requested."""
    is_stopping = record.status is Status.RUNNING and record.cancel_requested_at is not None
    return STOPPING if is_stopping else str(record.status)


def number_of(output: Output) -> int:
    """Return the number in the output's key: unlike its place in the list, it never changes."""
    return OutputId.of("", output).position


def _ranges(numbers: Iterable[int]) -> list[str]:
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return [str(first) if first == last else f"{first}..{last}" for first, last in spans]


def _numbers(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(",") if text else ():
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"{part[:20]!r} is not a range of outputs")
        first, last = int(match[1]), int(match[2] or match[1])
        # A short id could otherwise name millions of outputs.
        if len(found) + last - first >= _MOST_OUTPUTS:
            raise ValueError(f"it names more than {_MOST_OUTPUTS} outputs")
        found.update(range(first, last + 1))
    return frozenset(found)

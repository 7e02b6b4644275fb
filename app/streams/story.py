"""`Story`: the events that bring a client up to date, computed from a job's record. Pure, without I/O.

Every output comes before the terminal status, whatever the client has missed. Statuses and outputs have ids, because a
stream can be continued after them; progress and nodes have none, since only their latest state matters.
"""

from dataclasses import dataclass, field
from typing import Literal

from app.streams.position import Position, number_of, status_word
from storage.jobs.live import PreviewFrame
from storage.jobs.models import Output, ProgressDetails
from storage.jobs.record import JobRecord, Status


@dataclass(frozen=True, slots=True)
class StatusChanged:
    record: JobRecord


@dataclass(frozen=True, slots=True)
class OutputStored:
    record: JobRecord
    output: Output


@dataclass(frozen=True, slots=True)
class Progressed:
    """`percent` never falls within an attempt."""

    record: JobRecord
    percent: int
    details: ProgressDetails


@dataclass(frozen=True, slots=True)
class NodeChanged:
    record: JobRecord
    node_id: str
    state: Literal["started", "ended"]


@dataclass(frozen=True, slots=True)
class PreviewShown:
    record: JobRecord
    frame: PreviewFrame


Event = StatusChanged | OutputStored | Progressed | NodeChanged | PreviewShown


@dataclass(frozen=True, slots=True)
class Sent:
    """An event, and its id if a stream can be continued after it."""

    event: Event
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """The progress that a client was sent of one attempt."""

    attempt: int = 0
    percent: int = -1
    details: ProgressDetails = field(default_factory=ProgressDetails)

    @property
    def node(self) -> str | None:
        return self.details.current_node


@dataclass(frozen=True, slots=True)
class Story:
    """What one client knows: `position` of what it must not miss, `shown` of what it may."""

    position: Position = field(default_factory=Position)
    shown: Shown = field(default_factory=Shown)

    @property
    def is_over(self) -> bool:
        """Whether the client knows that the job has ended."""
        return self.position.status in (Status.COMPLETED, Status.FAILED)

    def after(self, record: JobRecord) -> tuple[list[Sent], "Story"]:
        """Return the events that lead to this record, in their order, and the story after them."""
        if record.attempt < self.position.attempt:  # an older state, from a reader that was paused
            return [], self
        position, shown = self.position.within(record), self._shown_in(record)
        progress, shown = _progress(shown, record)
        if record.status.is_terminal:
            # The terminal status ends the stream, so everything else precedes it.
            outputs, position = _outputs(position, record)
            status, position = _status(position, record)
            events = [*progress, *outputs, *status]
        else:
            status, position = _status(position, record)
            outputs, position = _outputs(position, record)
            events = [*status, *progress, *outputs]
        return events, Story(position, shown)

    def _shown_in(self, record: JobRecord) -> Shown:
        return self.shown if self.shown.attempt == record.attempt else Shown(record.attempt)


def _status(position: Position, record: JobRecord) -> tuple[list[Sent], Position]:
    if position.status == status_word(record):
        return [], position
    position = position.with_status(record)
    return [Sent(StatusChanged(record), str(position))], position


def _outputs(position: Position, record: JobRecord) -> tuple[list[Sent], Position]:
    sent = []
    for output in sorted(record.outputs, key=number_of):
        if number_of(output) not in position.outputs:
            position = position.with_output(output)
            sent.append(Sent(OutputStored(record, output), str(position)))
    return sent, position


def _progress(shown: Shown, record: JobRecord) -> tuple[list[Sent], Shown]:
    """Return the node and progress events of a running attempt, and of one that has just completed."""
    details, is_first = record.progress_details, shown.percent < 0
    if record.status is not Status.RUNNING and (is_first or record.status is not Status.COMPLETED):
        return [], shown
    # ComfyUI's percentage falls when a sampler begins, and clients discard an event that goes back.
    percent = max(shown.percent, record.progress)
    if (percent, details) == (shown.percent, shown.details):
        return [], shown
    nodes = []
    if shown.node is not None and shown.node != details.current_node:
        nodes.append(Sent(NodeChanged(record, shown.node, "ended")))
    if details.current_node is not None and shown.node != details.current_node:
        nodes.append(Sent(NodeChanged(record, details.current_node, "started")))
    return [*nodes, Sent(Progressed(record, percent, details))], Shown(record.attempt, percent, details)

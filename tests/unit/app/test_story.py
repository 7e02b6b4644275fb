"""The events of a job's stream, computed from its records."""

from collections.abc import Iterable
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.streams.position import Position, number_of
from app.streams.ranges import Ranges
from app.streams.story import NodeChanged, OutputStored, PreviewShown, Progressed, Sent, StatusChanged, Story
from storage.jobs.models import ErrorDetail, Output, ProgressDetails
from storage.jobs.record import JobRecord
from tests.support.records import CREATED, OUTPUT, a_job

NOW = CREATED + timedelta(seconds=1)


def output(number: int, attempt: int = 1) -> Output:
    key = f"tenants/default/jobs/x/outputs/{attempt:03d}/{number:04d}/{number}.png"
    return OUTPUT.model_copy(update={"key": key, "filename": f"{number}.png"})


def running(attempt: int = 1) -> JobRecord:
    record = a_job()
    for number in range(1, attempt + 1):
        record = record.claim(worker="w", now=NOW, lease_s=60)
        if number < attempt:
            fault = ErrorDetail(code="worker_lost", message="", attempt=number)
            record = record.requeue(attempt=number, now=NOW, fault=fault)
    return record


def reported(record: JobRecord, *outputs: Output, progress: int = 0, node: str | None = None) -> JobRecord:
    details = ProgressDetails(current_node=node, nodes_total=4)
    return record.report(
        attempt=record.attempt, now=NOW, lease_s=60, progress=progress, details=details, outputs=outputs
    )


def completed(record: JobRecord, *outputs: Output) -> JobRecord:
    return record.complete(attempt=record.attempt, now=NOW, outputs=outputs)


def ranges(numbers: Iterable[int]) -> Ranges:
    found = Ranges()
    for number in numbers:
        found = found.with_number(number)
    return found


def words(sent: list[Sent]) -> list[str]:
    """Return the events in a form that is easy to compare."""
    return [_word(one) for one in sent]


def _word(sent: Sent) -> str:
    match sent.event:
        case StatusChanged(record=record):
            return str(record.status)
        case OutputStored(output=stored):
            return stored.filename
        case Progressed(percent=percent):
            return f"{percent} %"
        case NodeChanged(node_id=node_id, state=state):
            return f"{node_id} {state}"
        case PreviewShown():
            return "preview"


def sent_for(*records: JobRecord, story: Story | None = None) -> list[str]:
    """Return all events of a client that sees these records in turn."""
    story, found = story or Story(), []
    for record in records:
        sent, story = story.after(record)
        found += words(sent)
    return found


def test_outputs_come_before_the_terminal_status() -> None:
    """A client that connects after the end gets every output, and then the terminal status as the last event."""
    assert sent_for(completed(running(), output(0), output(1))) == ["0.png", "1.png", "completed"]


def test_a_client_that_sees_every_record_gets_each_event_once() -> None:
    """Each status, output and node is sent once, and an output that ended early is not sent again."""
    first = running()
    second = reported(first, output(1), progress=30, node="7")
    third = reported(second, output(0), output(1), progress=60, node="9")
    last = completed(third, output(0), output(1))
    assert sent_for(a_job(), first, second, second, third, last, last) == [
        *("queued", "running", "0 %"),
        *("7 started", "30 %", "1.png"),
        *("7 ended", "9 started", "60 %", "0.png"),
        *("9 ended", "100 %", "completed"),
    ]


def test_progress_never_falls_within_an_attempt() -> None:
    """Progress that falls, as when a second sampler begins, is sent as its maximum; a new attempt begins at 0."""
    first = running()
    assert sent_for(reported(first, progress=80), reported(first, progress=40, node="2"), running(2)) == [
        *("running", "80 %"),
        *("2 started", "80 %"),
        *("running", "0 %"),
    ]


def test_a_new_attempt_sends_its_own_outputs() -> None:
    """The outputs of a repeated attempt are sent although those of the first had the same numbers."""
    first = reported(running(), output(0))
    second = completed(running(2), output(0, attempt=2))
    assert sent_for(first, second) == ["running", "0 %", "0.png", "0.png", "completed"]


def test_a_cancellation_request_is_an_event() -> None:
    """A running job whose cancellation was requested sends its status once more."""
    record = running()
    stopping = record.cancel(now=NOW)
    assert sent_for(record, stopping, stopping) == ["running", "0 %", "running"]


def test_an_older_attempt_is_ignored() -> None:
    """A record of an earlier attempt, read by a process that was paused, sends nothing."""
    assert sent_for(running(2), running(1)) == ["running", "0 %"]


@given(numbers=st.lists(st.integers(0, 999), unique=True, max_size=30), cut=st.integers(0, 40))
def test_a_stream_continues_after_any_id(numbers: list[int], cut: int) -> None:
    """Whatever event with an id a stream is cut after, the next stream sends exactly the rest, in the same order."""
    outputs = [output(number) for number in numbers]
    record = reported(running(), *outputs[: len(outputs) // 2])
    whole, story = Story().after(record)
    rest, _ = story.after(completed(record, *outputs))
    sent = [one for one in (*whole, *rest) if one.id is not None]
    last = min(cut, len(sent) - 1)
    continued, _ = Story(Position.parse(sent[last].id or "")).after(completed(record, *outputs))
    already = {number_of(one.event.output) for one in sent[: last + 1] if isinstance(one.event, OutputStored)}
    expected = [f"{number}.png" for number in sorted({*numbers} - already)]
    is_known = "completed" in words(sent[: last + 1])
    assert words(continued) == [*expected, *([] if is_known else ["completed"])]


@given(
    position=st.builds(
        Position,
        attempt=st.integers(0, 10**9 - 1),
        status=st.sampled_from(["none", "stopping", "queued", "running", "completed", "failed"]),
        outputs=st.frozensets(st.integers(0, 2_000), max_size=100).map(ranges),
    )
)
def test_a_position_survives_its_text(position: Position) -> None:
    """Parsing an event id gives the position that wrote it."""
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "1-running", "x-none-", "1-lost-", "1-none-5..", "1-none-1;2", "1-none-\n"),
        *("1-none-0..9999999", "1-none-3..2", "1-none-2,1", "1-none-1,1", "1-none-1,2", "1-none-0..3,2..5"),
    ],
)
def test_text_that_is_no_id_is_refused(text: str) -> None:
    """Text that no event had as its id is refused, ranges that overlap or touch among it."""
    with pytest.raises(ValueError, match="not"):
        Position.parse(text)


@given(numbers=st.lists(st.integers(0, 60), max_size=60))
def test_ranges_hold_what_was_added(numbers: list[int]) -> None:
    """Ranges contain exactly the numbers that were added, in whatever order, and a gap is between any two of them."""
    found = ranges(numbers)
    assert {number for number in range(70) if number in found} == set(numbers)
    assert len(found) == len(set(numbers))
    assert all(after[0] > before[1] + 1 for before, after in pairwise(found.spans))


def test_a_short_id_that_names_many_outputs_costs_nothing() -> None:
    """An id that names a million outputs is kept as it is, and a job's outputs are compared with it quickly."""
    outputs = [output(number) for number in range(0, 2_000, 2)]
    story = Story(Position.parse("1-none-3..999999"))
    sent, after = story.after(completed(running(), *outputs))
    assert words(sent) == ["0.png", "2.png", "completed"]
    assert str(after.position) == "1-completed-0,2..999999"

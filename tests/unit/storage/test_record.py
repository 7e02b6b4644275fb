"""The state machine of a job has exactly the transitions of its table."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage.errors import AttemptFenced, TransitionRefused
from storage.jobs.models import ErrorDetail, EventName, JobEvent, Output, ProgressDetails, total_seconds
from storage.jobs.record import CANCELLED_MESSAGE, TRANSITIONS, Change, JobRecord, Status

NOW = datetime(2026, 11, 23, tzinfo=UTC)
OUTPUT = Output(
    filename="a.png", type="image", node_id="1", key="k", size_bytes=1, content_type="image/png", sha256="0"
)
ERROR = ErrorDetail(code="node_error", message="it broke")


def queued() -> JobRecord:
    return JobRecord(
        tenant="default", job_id="j", timeout_s=60, workflow_shape="s", created_at=NOW, metadata={"k": "v"}
    )


def running() -> JobRecord:
    return queued().claim(worker="w", now=NOW, lease_s=60)


def test_terminal_states_have_no_transitions() -> None:
    """A terminal state has no transition to another state."""
    assert not [arrow for arrow, to in TRANSITIONS.items() if arrow[0].is_terminal and to is not arrow[0]]


def test_a_claim_takes_a_lease_and_counts_the_attempt() -> None:
    """A claim sets the lease and increments the attempt."""
    record = running()
    assert (record.status, record.attempt) == (Status.RUNNING, 1)
    assert record.lease is not None
    assert record.lease.expires_at == NOW + timedelta(seconds=60)


def test_a_cancelled_queued_job_fails_with_the_first_versions_message() -> None:
    """A cancelled queued job fails with the message that clients of the first version compare."""
    record = queued().cancel(now=NOW)
    assert (record.status, record.error) == (Status.FAILED, CANCELLED_MESSAGE)
    assert record.error_detail is not None
    assert record.error_detail.code == "cancelled"


def test_cancelling_twice_or_after_the_end_changes_nothing() -> None:
    """A repeated or late cancel returns the same record, so that nothing is written."""
    asked = running().cancel(now=NOW)
    assert asked.cancel(now=NOW) is asked
    done = running().complete(attempt=1, now=NOW, outputs=())
    assert done.cancel(now=NOW) is done


def test_an_old_attempt_cannot_write() -> None:
    """After a release and a new claim, every write of the first attempt is fenced."""
    record = running().release(attempt=1, now=NOW).claim(worker="v", now=NOW, lease_s=60)
    writes: list[Callable[[], JobRecord]] = [
        lambda: record.complete(attempt=1, now=NOW, outputs=()),
        lambda: record.fail(attempt=1, now=NOW, error=ERROR),
        lambda: record.release(attempt=1, now=NOW),
        lambda: record.report(attempt=1, now=NOW, lease_s=1, progress=1, details=ProgressDetails(), outputs=()),
    ]
    for write in writes:
        with pytest.raises(AttemptFenced):
            write()


def test_a_completed_job_counts_the_nodes_that_ran() -> None:
    """A report from before ComfyUI said what it runs does not count; without a number of its own the end keeps it."""
    first = ProgressDetails(nodes_total=4)
    reported = running().report(attempt=1, now=NOW, lease_s=60, progress=0, details=first, outputs=())
    for ran, counted in ((2, 2), (0, 4)):
        details = reported.complete(attempt=1, now=NOW, outputs=(), nodes_total=ran).progress_details
        assert (details.nodes_completed, details.nodes_total) == (counted, counted)


def test_a_record_round_trips_through_json() -> None:
    """A record is unchanged after serialization to JSON and back."""
    record = running().fail(attempt=1, now=NOW, error=ERROR, outputs=(OUTPUT,))
    assert JobRecord.model_validate_json(record.model_dump_json()) == record


@given(st.sampled_from(Status), st.sampled_from(Change))
def test_only_the_transitions_of_the_table_exist(status: Status, change: Change) -> None:
    """Each change either follows the table or is refused."""
    record = running().model_copy(update={"status": status})
    if (status, change) in TRANSITIONS:
        assert record._change(change).status is TRANSITIONS[status, change]
    else:
        with pytest.raises(TransitionRefused):
            record._change(change)


class JobMachine(RuleBasedStateMachine):
    """Changes by workers, the reaper and a user in any order lead to one final end, with events that match it."""

    def __init__(self) -> None:
        super().__init__()
        wanted = {"webhook_url": "https://receiver.example/", "webhook_events": get_args(EventName)}
        self.record = queued().model_copy(update=wanted).initial()
        self.ended: JobRecord | None = None
        self.now = NOW
        self.seen_events: dict[int, JobEvent] = {event.sequence: event for event in self.record.events}

    def apply(self, record: JobRecord) -> None:
        """Apply a change as the store commits it."""
        if record is not self.record:
            record = record.model_copy(update={"rev": self.record.rev + 1})
        spent, before = total_seconds(record.gpu_time), total_seconds(self.record.gpu_time)
        assert before <= spent <= (self.now - NOW).total_seconds(), "time was lost, or counted twice"
        self.record = record
        for event in record.events:
            assert self.seen_events.setdefault(event.sequence, event) == event, "an event changed"
        if record.status.is_terminal and self.ended is None:
            self.ended = record

    def attempt(self, behind: int, change: Callable[[int], JobRecord]) -> None:
        """Make a change as a worker that holds the current attempt or an older one."""
        try:
            changed = change(self.record.attempt - behind)
        except AttemptFenced:
            assert behind or self.record.status is not Status.RUNNING
        else:
            assert behind == 0
            self.apply(changed)

    @rule(seconds=st.integers(1, 20))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(worker=st.sampled_from(["a", "b"]))
    def claim(self, worker: str) -> None:
        if self.record.status is Status.QUEUED:
            self.apply(self.record.claim(worker=worker, now=self.now, lease_s=10))

    @rule(behind=st.integers(0, 2), progress=st.integers(0, 99), more=st.booleans())
    def report(self, behind: int, progress: int, *, more: bool) -> None:
        outputs = (*self.record.outputs, OUTPUT) if more else self.record.outputs
        self.attempt(
            behind,
            lambda attempt: self.record.report(
                attempt=attempt,
                now=self.now,
                lease_s=10,
                progress=progress,
                details=self.record.progress_details,
                outputs=outputs,
            ),
        )

    @rule(behind=st.integers(0, 2))
    def complete(self, behind: int) -> None:
        self.attempt(behind, lambda attempt: self.record.complete(attempt=attempt, now=self.now, outputs=()))

    @rule(behind=st.integers(0, 2))
    def fail(self, behind: int) -> None:
        self.attempt(behind, lambda attempt: self.record.fail(attempt=attempt, now=self.now, error=ERROR))

    @rule(behind=st.integers(0, 2))
    def release(self, behind: int) -> None:
        self.attempt(behind, lambda attempt: self.record.release(attempt=attempt, now=self.now))

    @rule(behind=st.integers(0, 2))
    def requeue(self, behind: int) -> None:
        self.attempt(behind, lambda attempt: self.record.requeue(attempt=attempt, now=self.now, fault=ERROR))

    @rule()
    def expire(self) -> None:
        """Expire the job as the reaper does, which is allowed only after the lease has ended."""
        lost = self.record.has_lost_its_worker(self.now)
        changed = self.record.expire(now=self.now, max_attempts=3)
        assert lost == (changed is not self.record)
        self.apply(changed)

    @rule()
    def cancel(self) -> None:
        self.apply(self.record.cancel(now=self.now))

    @invariant()
    def the_end_is_final(self) -> None:
        if self.ended is not None:
            assert self.record == self.ended

    @invariant()
    def a_lease_is_held_while_running_only(self) -> None:
        assert (self.record.lease is not None) == (self.record.status is Status.RUNNING)

    @invariant()
    def events_match_the_changes(self) -> None:
        """Events are numbered without gaps, with one start per attempt and one end that is last; only progress is
        replaced."""
        assert sorted(self.seen_events) == list(range(1, self.record.next_sequence))
        names = [self.seen_events[sequence].name for sequence in sorted(self.seen_events)]
        assert names.count("started") == self.record.attempt
        ends = [number for number, name in enumerate(names) if name in ("completed", "failed")]
        assert ends == ([len(names) - 1] if self.record.status.is_terminal else [])
        kept = [event for event in self.seen_events.values() if event.name != "progress"]
        assert [event for event in self.record.events if event.name != "progress"] == kept
        assert sum(event.name == "progress" for event in self.record.events) <= (0 if ends else 1)


TestJobMachine = JobMachine.TestCase


def with_deadline(**fields: object) -> JobRecord:
    return queued().model_copy(update={"timeout_s": 600, "deadline_s": 100, **fields})


AFTER = NOW + timedelta(seconds=100)


def test_a_queued_job_fails_at_its_deadline() -> None:
    """A job that still waits at its deadline fails with its own code, also where its queue limit is later."""
    record = with_deadline(queue_timeout_s=3600)
    assert record.due_at == AFTER
    assert record.expire_in_queue(now=AFTER - timedelta(seconds=1)) is record
    assert record.expire_in_queue(now=AFTER).error_code == "deadline_exceeded"


def test_a_repeated_attempt_waits_no_longer_than_the_deadline() -> None:
    """The deadline counts from the creation: a job that returned to the queue has what is left of it."""
    record = with_deadline().claim(worker="w", now=NOW, lease_s=60)
    released = record.release(attempt=1, now=NOW + timedelta(seconds=50))
    assert released.due_at == AFTER
    assert released.expire_in_queue(now=AFTER).error_code == "deadline_exceeded"


@pytest.mark.parametrize("end", ["release", "requeue", "expire"])
def test_no_job_returns_to_the_queue_after_its_deadline(end: str) -> None:
    """A job that its worker gives up, or loses, after the deadline fails and is not queued again."""
    record = with_deadline().claim(worker="w", now=NOW, lease_s=60)
    match end:
        case "release":
            failed = record.release(attempt=1, now=AFTER)
        case "requeue":
            failed = record.requeue(attempt=1, now=AFTER, fault=ERROR)
        case _:
            failed = record.expire(now=AFTER, max_attempts=3)
    assert (failed.status, failed.error_code) == (Status.FAILED, "deadline_exceeded")


def test_a_retry_is_named_once_and_only_by_an_ended_job() -> None:
    """A job that has ended names its retry once; a running one refuses it."""
    done = running().complete(attempt=1, now=NOW, outputs=())
    assert done.retried("a").retried("b").retried_as == ("a", "b")
    named = done.retried("a")
    assert named.retried("a") is named
    with pytest.raises(TransitionRefused):
        running().retried("a")

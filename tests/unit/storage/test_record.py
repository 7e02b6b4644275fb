"""The state machine of a job: every arrow of the table, and that there are no others."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage.errors import AttemptFenced, TransitionRefused
from storage.record import CANCELLED_MESSAGE, TRANSITIONS, Change, JobRecord, Status
from storage.values import ErrorDetail, Output, ProgressDetails

NOW = datetime(2026, 11, 23, tzinfo=UTC)
ERROR = ErrorDetail(code="node_error", message="it broke")


def queued() -> JobRecord:
    return JobRecord(
        tenant="default", job_id="j", timeout_s=60, workflow_shape="s", created_at=NOW, metadata={"k": "v"}
    )


def running() -> JobRecord:
    return queued().claim(worker="w", now=NOW, lease_s=60)


def test_terminal_states_have_no_way_out() -> None:
    """What has ended stays as it ended."""
    assert not [arrow for arrow, to in TRANSITIONS.items() if arrow[0].is_terminal and to is not arrow[0]]


def test_a_claim_takes_a_lease_and_counts_the_attempt() -> None:
    """The claimed record names its worker and its time."""
    record = running()
    assert (record.status, record.attempt) == (Status.RUNNING, 1)
    assert record.lease is not None
    assert record.lease.expires_at == NOW + timedelta(seconds=60)


def test_a_cancelled_queued_job_fails_with_the_first_versions_words() -> None:
    """Clients of the first version compare this message."""
    record = queued().cancel(now=NOW)
    assert (record.status, record.error) == (Status.FAILED, CANCELLED_MESSAGE)
    assert record.error_detail is not None
    assert record.error_detail.code == "cancelled"


def test_cancelling_twice_or_after_the_end_changes_nothing() -> None:
    """The very same record comes back, so that nothing is written."""
    asked = running().cancel(now=NOW)
    assert asked.cancel(now=NOW) is asked
    done = running().complete(attempt=1, now=NOW, outputs=())
    assert done.cancel(now=NOW) is done


def test_an_old_attempt_may_write_nothing() -> None:
    """After a release and another claim the first worker is fenced."""
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


def test_a_record_survives_json() -> None:
    """What is stored is what is read."""
    output = Output(
        filename="a.png", type="image", node_id="1", key="k", size_bytes=1, content_type="image/png", sha256="0"
    )
    record = running().fail(attempt=1, now=NOW, error=ERROR, outputs=(output,))
    assert JobRecord.model_validate_json(record.model_dump_json()) == record


@given(st.sampled_from(Status), st.sampled_from(Change))
def test_only_the_tables_arrows_exist(status: Status, change: Change) -> None:
    """Each change either leads where the table says, or is refused."""
    record = running().model_copy(update={"status": status})
    if (status, change) in TRANSITIONS:
        assert record._change(change).status is TRANSITIONS[status, change]
    else:
        with pytest.raises(TransitionRefused):
            record._change(change)


class JobMachine(RuleBasedStateMachine):
    """Any order of changes by two workers and a user: one terminal state, never changed."""

    def __init__(self) -> None:
        super().__init__()
        self.record = queued()
        self.ended: JobRecord | None = None

    def apply(self, record: JobRecord) -> None:
        self.record = record
        if record.status.is_terminal and self.ended is None:
            self.ended = record

    @rule(worker=st.sampled_from(["a", "b"]))
    def claim(self, worker: str) -> None:
        if self.record.status is Status.QUEUED:
            self.apply(self.record.claim(worker=worker, now=NOW, lease_s=10))

    @rule(behind=st.integers(0, 2))
    def complete(self, behind: int) -> None:
        attempt = self.record.attempt - behind
        try:
            changed = self.record.complete(attempt=attempt, now=NOW, outputs=())
        except AttemptFenced:
            assert behind or self.record.status is not Status.RUNNING
        else:
            assert behind == 0
            self.apply(changed)

    @rule(behind=st.integers(0, 2))
    def release(self, behind: int) -> None:
        try:
            self.apply(self.record.release(attempt=self.record.attempt - behind, now=NOW))
        except AttemptFenced:
            assert behind or self.record.status is not Status.RUNNING

    @rule()
    def cancel(self) -> None:
        self.apply(self.record.cancel(now=NOW))

    @invariant()
    def the_end_is_final(self) -> None:
        if self.ended is not None:
            assert self.record == self.ended

    @invariant()
    def a_lease_is_held_while_running_only(self) -> None:
        assert (self.record.lease is not None) == (self.record.status is Status.RUNNING)


TestJobMachine = JobMachine.TestCase

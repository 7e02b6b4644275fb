"""The key layout: round trips, orders and the rules that hold on every S3 server."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import keys
from storage.index_keys import (
    MAX_PRIORITY,
    MIN_PRIORITY,
    OUTBOX,
    EventRef,
    ListEntry,
    MemberEntry,
    OutboxEntry,
    QueueEntry,
    behind_outbox_of,
)
from storage.timers import LANES, Kind, Lane, Timer

JOB = "0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10"
times = st.integers(1_600_000_000_000, 7_000_000_000_000).map(lambda ms: datetime.fromtimestamp(ms / 1000, UTC))
entries = st.builds(
    QueueEntry,
    pool=st.sampled_from(["default", "h100"]),
    priority=st.integers(MIN_PRIORITY, MAX_PRIORITY),
    created_at=times,
    tenant=st.sampled_from(["default", "a-b.c_d", "x"]),
    job_id=st.uuids(version=4).map(str),
    attempt=st.integers(0, 5_000),
)


@given(entries)
def test_a_queue_key_round_trips(entry: QueueEntry) -> None:
    """Parsing a queue key returns the entry that it was made from."""
    assert QueueEntry.parse(entry.key) == entry


@given(entries, entries)
def test_queue_keys_sort_by_priority_then_age(one: QueueEntry, other: QueueEntry) -> None:
    """Key order within a pool is priority, then age, so that a LIST returns the best job first."""
    if one.pool != other.pool:
        return
    rank = (-one.priority, one.created_at), (-other.priority, other.created_at)
    if rank[0] < rank[1]:
        assert one.key < other.key


@given(times, st.timedeltas(timedelta(milliseconds=1), timedelta(days=1000)))
def test_index_keys_sort_newest_first(moment: datetime, later: timedelta) -> None:
    """A newer job has the smaller index key, so that a LIST returns the newest job first."""
    older, newer = (ListEntry(created_at, JOB, None) for created_at in (moment, moment + later))
    assert newer.key("default", None) < older.key("default", None)


@given(times, st.sampled_from([None, 0, 1, 1234]))
def test_an_index_key_round_trips(moment: datetime, attempt: int | None) -> None:
    """Parsing an index key returns the entry that it was made from."""
    entry = ListEntry(moment, JOB, attempt)
    assert ListEntry.parse(entry.key("default", "queued")) == entry


tenants = st.sampled_from(["a", "a-", "a-1", "a.1", "a0", "a_", "aa", "A", "b", "0", "9"])
outbox_entries = st.builds(
    OutboxEntry,
    due=times,
    endpoint=st.text("0123456789abcdef", min_size=24, max_size=24),
    ref=st.builds(EventRef, tenants, st.sampled_from(["job", "batch", "test"]), st.just(JOB), st.integers(1, 999_999)),
    generation=st.integers(0, 5_000),
)


@given(outbox_entries)
def test_an_outbox_key_round_trips(entry: OutboxEntry) -> None:
    """Parsing an outbox key returns the entry that it was made from."""
    assert OutboxEntry.parse(entry.key) == entry


@given(st.lists(outbox_entries, min_size=2))
def test_outbox_keys_of_one_tenant_are_contiguous(entries: list[OutboxEntry]) -> None:
    """The outbox keys of a tenant are contiguous and sorted by due time, and one key sorts right after them."""
    assert all(entry.key.startswith(OUTBOX) for entry in entries)
    for entry in entries:
        own = [other for other in entries if other.ref.tenant == entry.ref.tenant]
        assert [one.due for one in sorted(own, key=lambda one: one.key)] == sorted(one.due for one in own)
        first, behind = min(one.key for one in own), behind_outbox_of(entry.ref.tenant)
        between = {other.ref.tenant for other in entries if first <= other.key < behind}
        assert between == {entry.ref.tenant}
        assert all(other.key < behind for other in own)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("kind", ["job", "batch", "upload", "key", "test", "endpoint"])
def test_a_timer_key_round_trips(kind: Kind, lane: Lane) -> None:
    """A timer key parses to its timer, sorts by due time within a lane, and is unique."""
    now = datetime(2026, 11, 23, tzinfo=UTC)
    timer, twin = (Timer.new(now, kind, "t-1", JOB, armed_at=now, lane=lane) for _ in range(2))
    assert Timer.parse(timer.key) == timer
    assert timer.key != twin.key
    later = Timer.new(now + timedelta(milliseconds=1), kind, "a", JOB, armed_at=now, lane=lane)
    assert timer.key < later.key
    with pytest.raises(ValueError, match="not a timer"):
        Timer.parse(timer.key + "/x")


def test_a_member_key_round_trips() -> None:
    """Parsing a member key returns the entry that it was made from."""
    entry = MemberEntry(JOB, 12, "completed")
    assert MemberEntry.parse(entry.key("t", JOB)) == entry


def test_each_attempt_has_its_own_queue_key() -> None:
    """A requeued job gets a new key at the same place, so a late delete of the old key does not remove it."""
    now = datetime(2026, 11, 23, tzinfo=UTC)
    first, again = (QueueEntry("default", 0, now, "t", JOB, attempt).key for attempt in (0, 1))
    younger = QueueEntry("default", 0, now + timedelta(milliseconds=1), "t", JOB, 0).key
    assert first < again < younger


@pytest.mark.parametrize("bad", ["", "x", "tenants/t/index/all/", f"tenants/t/index/all/123-{JOB}"])
def test_a_foreign_key_is_not_an_index_key(bad: str) -> None:
    """A key that is not an index key raises an error when it is parsed."""
    with pytest.raises(ValueError, match="not a key of this kind"):
        ListEntry.parse(bad)


@pytest.mark.parametrize("bad", ["", "../x", "a/b", "a..b", ".hidden", "x" * 101, "ü", "a\\b"])
def test_an_unsafe_segment_is_refused(bad: str) -> None:
    """An id that is unsafe in a key is refused before a key is made."""
    with pytest.raises(ValueError, match="not usable in a key"):
        keys.record("default", bad)
    with pytest.raises(ValueError, match="not usable in a key"):
        keys.record(bad, JOB)


@pytest.mark.parametrize(
    "bad",
    ["queue/default", "queue/default/x", f"queue/default/0999999-0000000000000-{JOB}-t", "other/default/0-0-x-y", ""],
)
def test_a_foreign_key_is_not_a_queue_key(bad: str) -> None:
    """A key that is not a queue key raises an error when it is parsed."""
    with pytest.raises(ValueError, match="not a key of this kind"):
        QueueEntry.parse(bad)


def test_no_key_is_a_prefix_of_another() -> None:
    """No key is the folder of another key, because some servers refuse such a key for minutes."""
    now = datetime(2026, 11, 23, tzinfo=UTC)
    every = [
        keys.record("t", JOB),
        keys.workflow("t", JOB),
        keys.input_file("t", JOB, 0),
        keys.output("t", JOB, 1, 0, "a.png"),
        keys.upload("t", JOB),
        keys.upload_data("t", JOB),
        keys.runtimes("t", "abc"),
        keys.engine_info("default"),
        keys.probe(uuid.uuid4().hex),
        keys.log("t", JOB, 1),
        keys.batch("t", JOB),
        keys.batch_file("t", JOB, 0),
        keys.upload_use("t", JOB, JOB),
        ListEntry(now, JOB, None).key("t", None),
        ListEntry(now, JOB, 0).key("t", "queued"),
        MemberEntry(JOB, 0, "queued").key("t", JOB),
        Timer.new(now, "job", "t", JOB, armed_at=now).key,
        QueueEntry("default", 0, now, "t", JOB, 0).key,
    ]
    folders = {key.rsplit("/", depth)[0] for key in every for depth in range(1, key.count("/") + 1)}
    assert not folders & set(every)

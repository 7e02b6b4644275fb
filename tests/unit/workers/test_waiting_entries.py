"""Outbox entries that wait for a slot: what an attempt's end costs, and whose turn is next."""

import uuid
from datetime import UTC, datetime

import pytest

from storage.index_keys import EventRef, OutboxEntry
from storage.jobs.index import endpoint_of
from workers.webhooks.attempt_slots import EVENTS, AttemptSlots
from workers.webhooks.waiting import WaitingEntries

DUE = datetime(2026, 1, 1, tzinfo=UTC)


def entry(url: str, tenant: str = "acme") -> OutboxEntry:
    return OutboxEntry(DUE, endpoint_of(url), EventRef(tenant, "job", str(uuid.uuid4()), 1))


class CountingSlots(AttemptSlots):
    """Counts the looks at slots."""

    looks = 0

    def has_room_for(self, entry: OutboxEntry) -> bool:
        self.looks += 1
        return super().has_room_for(entry)

    def has_room_at(self, tenant: str, host: str) -> bool:
        self.looks += 1
        return super().has_room_at(tenant, host)


@pytest.mark.parametrize("paths", [1, 5_000], ids=["one receiver", "one host"])
def test_a_full_receiver_costs_few_looks(paths: int) -> None:
    """Finding the next entry takes a few looks, however many entries wait for a full receiver or host."""
    waiting, slots = WaitingEntries(), CountingSlots(EVENTS)
    for number in range(5_000):
        waiting.add(entry(f"https://slow.example.com/{number % paths}"))
    healthy = entry("https://well.example.com/")
    waiting.add(healthy)
    taken = []
    while (found := waiting.take("acme", slots)) is not None:
        slots.take(found)
        taken.append(found)
    assert healthy in taken
    assert len(taken) == 1 + (EVENTS.of_endpoint if paths == 1 else EVENTS.of_host)
    slots.release(healthy)
    before = slots.looks
    assert waiting.take("acme", slots) is None
    assert slots.looks - before <= 3


def test_the_entries_of_a_receiver_keep_their_order() -> None:
    """Entries of one receiver are taken in order, and those of several receivers in turn."""
    waiting, slots = WaitingEntries(), AttemptSlots(EVENTS)
    urls = ["https://a.example.com/", "https://a.example.com/", "https://b.example.com/"]
    entries = [entry(url) for url in urls]
    for each in entries:
        waiting.add(each)
    assert [waiting.take("acme", slots) for _ in range(4)] == [entries[0], entries[2], entries[1], None]
    assert list(waiting.tenants()) == []

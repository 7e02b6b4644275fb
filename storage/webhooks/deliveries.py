"""The delivery of each event: one record per event, changed by conditional writes, with its latest attempts.

    pending ──claim──▶ pending, under a lease ──▶ delivered
                          │      └──────────────▶ dead ──replay──▶ pending
                          └─────reschedule──────▶ pending

The first claim creates the record. A lease keeps two deliverers from sending the same attempt. If a deliverer dies
after sending, the event is sent again with the same id: delivery is at least once.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from storage import keys
from storage.bucket.objects import ObjectStore, confirm_absence, is_absent
from storage.bucket.records import Model, commit, compare_and_swap, read_as
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import ObjectNotFound
from storage.index_keys import DeadLetter, EventRef, OutboxEntry, dead_letters_prefix
from storage.jobs.index import endpoint_of
from storage.jobs.models import TEST_TYPE, job_event_type
from storage.timers import Timer

LEASE = timedelta(seconds=60)
"""Exceeds the time limit of an attempt (15 s) and the bucket requests around it."""

YOUNG_LETTER = timedelta(minutes=10)
"""Age below which an entry of the dead letters may precede its commit."""

TEST_KEPT = timedelta(days=1)
ATTEMPT_POLL_S = 0.2
MOST_ATTEMPTS = 30
"""The newest attempts that a delivery keeps: more than a schedule has. Replays add attempts without a limit."""

OLDER_EXCERPT = 256
"""Characters kept of an excerpt once there is a newer attempt, since a list shows up to 200 deliveries."""


class DeliveryAttempt(Model):
    """One attempt. `status` and `excerpt` are of the response, None without one; `duration_ms` is the time to it."""

    number: int
    at: datetime
    status: int | None
    duration_ms: int
    error: str | None
    excerpt: str | None

    @property
    def shortened(self) -> "DeliveryAttempt":
        """The attempt with a shorter excerpt, for the time after a newer attempt."""
        if self.excerpt is None or len(self.excerpt) <= OLDER_EXCERPT:
            return self
        return self.model_copy(update={"excerpt": self.excerpt[:OLDER_EXCERPT]})


class Delivery(Model):
    """The content of a delivery's object."""

    tenant: str
    kind: Literal["job", "batch", "test"]
    owner_id: str
    sequence: int
    type: str
    url: str
    rev: int = 0
    nonce: str = ""
    status: Literal["pending", "delivered", "dead"] = "pending"
    reason: str | None = None
    """Why the delivery was given up."""
    died_at: datetime | None = None
    attempts: tuple[DeliveryAttempt, ...] = ()
    tries_left_from: int = 0
    """The number of attempts before the last replay, which do not count against the schedule."""
    generation: int = 0
    """The generation of the newest outbox entry. An entry with a greater one belongs to a commit still to come."""
    next_at: datetime | None = None
    lease_until: datetime | None = None

    @property
    def ref(self) -> EventRef:
        return EventRef(self.tenant, self.kind, self.owner_id, self.sequence)

    @property
    def outbox_entry(self) -> OutboxEntry | None:
        """The outbox entry of the next attempt; None unless the delivery is pending."""
        if self.status != "pending" or self.next_at is None:
            return None
        return OutboxEntry(self.next_at, endpoint_of(self.url), self.ref, self.generation)

    @property
    def dead_letter(self) -> DeadLetter | None:
        """The delivery's entry in the list of dead letters."""
        # A progress event is soon outdated, so its loss is not reported.
        return DeadLetter(self.died_at, self.ref) if self.died_at is not None and not self.is_progress else None

    @property
    def is_progress(self) -> bool:
        return self.type == job_event_type("progress")

    @property
    def attempted(self) -> int:
        """The number of all attempts, including those no longer kept."""
        return self.attempts[-1].number if self.attempts else 0

    @property
    def tries(self) -> int:
        """The number of attempts since the first, or since the last replay."""
        return self.attempted - self.tries_left_from

    def is_held(self, now: datetime) -> bool:
        return self.lease_until is not None and self.lease_until > now

    def held(self, until: datetime) -> "Delivery":
        return self.model_copy(update={"lease_until": until})

    def delivered(self, attempt: DeliveryAttempt) -> "Delivery":
        return self._after(attempt, status="delivered", next_at=None)

    def rescheduled(self, attempt: DeliveryAttempt | None, next_at: datetime) -> "Delivery":
        """Return the delivery with a new time; `attempt` is None if the receiver is paused and none was made."""
        return self._after(attempt, next_at=next_at)

    def died(self, attempt: DeliveryAttempt | None, reason: str, now: datetime) -> "Delivery":
        return self._after(attempt, status="dead", reason=reason, died_at=now, next_at=None)

    def replayed(self, now: datetime) -> "Delivery":
        """Return the delivery pending again, at the start of the schedule and with the same event id."""
        fresh = {"status": "pending", "reason": None, "died_at": None, "tries_left_from": self.attempted}
        return self._after(None, next_at=now, **fresh)

    def _after(self, attempt: DeliveryAttempt | None, **fields: object) -> "Delivery":
        attempts = self.attempts
        if attempt is not None:
            attempts = (*(one.shortened for one in attempts), attempt)[-MOST_ATTEMPTS:]
        # A greater generation gives the next outbox entry another key, so deleting the old one cannot hit it.
        changes = {"attempts": attempts, "lease_until": None, "generation": self.generation + 1, **fields}
        return self.model_copy(update=changes)


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    record: Delivery
    etag: str


class DeliveryStore:
    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock

    async def find(self, ref: EventRef) -> StoredDelivery | None:
        try:
            stored = await self._objects.get(_key(ref))
        except ObjectNotFound:
            return None
        return StoredDelivery(read_as(Delivery, stored.head.key, stored.body), stored.head.etag)

    async def confirm_missing(self, ref: EventRef) -> None:
        """Raise `StorageUnavailable` if a LIST has the delivery that `find` did not find."""
        await confirm_absence(self._objects, _key(ref))

    async def start(self, delivery: Delivery) -> StoredDelivery:
        """Create the record of a delivery. Raises `PreconditionFailed` if it exists."""
        return await self._commit(delivery, etag=None)

    async def settle(self, stored: StoredDelivery, after: Delivery) -> StoredDelivery:
        """Commit the new state of a delivery. Raises `PreconditionFailed` if another writer was first."""
        # The outbox entry and the dead letter come before the commit: a crash leaves an extra key, never a missing one.
        if (entry := after.outbox_entry) is not None and entry != stored.record.outbox_entry:
            await self._objects.put(entry.key, b"")
        before = stored.record.dead_letter
        if after.dead_letter is not None:
            await self._objects.put(after.dead_letter.key, b"")
        settled = await self._commit(after, etag=stored.etag)
        if before is not None and after.dead_letter is None:  # replayed: it is no longer a dead letter
            await self._objects.delete(before.key)
        return settled

    async def invalidate(self, stored: StoredDelivery, entry: OutboxEntry) -> StoredDelivery:
        """Make the pending commit of this entry's writer fail, so that the entry may be deleted.

        Raises `PreconditionFailed` if another writer was first.
        """
        # The writer was paused between its entry and its commit; it retries with a new generation and a new entry.
        return await self.settle(stored, stored.record.model_copy(update={"generation": entry.generation + 1}))

    async def change(self, ref: EventRef, change: Callable[[Delivery], Delivery]) -> StoredDelivery | None:
        """Apply `change` to the current record and commit it; return None if there is no record."""

        async def write(stored: StoredDelivery | None) -> StoredDelivery | None:
            return None if stored is None else await self.settle(stored, change(stored.record))

        return await compare_and_swap(f"event {ref.event_id}", lambda: self.find(ref), write)

    async def replay(self, ref: EventRef) -> Delivery | None:
        """Schedule the event again with the same id; return None if its delivery never started."""
        now = self._clock.now()
        stored = await self.change(ref, lambda delivery: delivery.replayed(now))
        return None if stored is None else stored.record

    async def test(self, tenant: str, url: str, test_id: str) -> EventRef:
        """Create a test event for a receiver. It belongs to no job or batch and is removed after `TEST_KEPT`."""
        now = self._clock.now()
        ref = EventRef(tenant, "test", test_id, 1)
        # The timer first, so that the event is removed however this ends.
        await self._objects.put(Timer.new(now + TEST_KEPT, "test", tenant, test_id, armed_at=now).key, b"")
        # A test has no record that could hold its event, so its delivery is created at once and stands for it.
        asked = Delivery(tenant=tenant, kind="test", owner_id=test_id, sequence=1, type=TEST_TYPE, url=url, next_at=now)
        await self._objects.put(OutboxEntry(now, endpoint_of(url), ref).key, b"")
        await self.start(asked)
        return ref

    async def attempted(self, ref: EventRef, *, timeout_s: float) -> Delivery:
        """Wait up to `timeout_s` seconds for an attempt and return the delivery.

        Raises `ObjectNotFound` if it was removed.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            stored = await self.find(ref)
            if stored is None:
                raise ObjectNotFound(ref.event_id)
            delivery = stored.record
            if delivery.attempts or delivery.status != "pending" or asyncio.get_running_loop().time() >= deadline:
                return delivery
            await asyncio.sleep(ATTEMPT_POLL_S)

    async def dead_letters(self, tenant: str, *, limit: int, after: str) -> tuple[list[Delivery], str | None]:
        """Return a page of dead letters, newest first, and the key to continue after: one LIST and one GET each."""
        page = await self._objects.list(dead_letters_prefix(tenant), after=after, limit=limit)
        found = await map_bounded(page.keys, lambda key: self._dead(tenant, key))
        return [delivery for delivery in found if delivery is not None], page.keys[-1] if page.more else None

    async def _dead(self, tenant: str, key: str) -> Delivery | None:
        """Return the dead delivery of an entry; None if it was replayed or removed, and the entry is stale."""
        now = self._clock.now()
        try:
            letter = DeadLetter.parse(tenant, key)
        except ValueError:
            await self._objects.delete(key)
            return None
        stored = await self.find(letter.ref)
        if stored is not None and stored.record.status == "dead":
            return stored.record
        is_old = now - letter.died_at > YOUNG_LETTER  # a younger entry may precede its commit
        if is_old and (stored is not None or await is_absent(self._objects, _key(letter.ref))):
            await self._objects.delete(key)
        return None

    async def is_over(self, refs: Iterable[EventRef]) -> bool:
        """Whether each of these events was delivered or given up."""
        found = await map_bounded(refs, self.find)
        return all(stored is not None and stored.record.status != "pending" for stored in found)

    async def dead_letters_of(self, refs: Iterable[EventRef]) -> list[str]:
        """Return the keys of these events' dead letters."""
        letters = [delivery.dead_letter for delivery in await self.of(refs)]
        return [letter.key for letter in letters if letter is not None]

    async def on_due(self, timer: Timer) -> Timer | None:
        """Delete the delivery of a test event. Those of jobs and batches are deleted with their owners."""
        ref = EventRef(timer.tenant, "test", timer.id, 1)
        await self._objects.delete(*await self.dead_letters_of([ref]), _key(ref))
        return None

    async def of(self, refs: Iterable[EventRef]) -> list[Delivery]:
        """Return the deliveries of these events that have started."""
        return [stored.record for stored in await map_bounded(refs, self.find) if stored is not None]

    async def _commit(self, record: Delivery, *, etag: str | None) -> StoredDelivery:
        # Equal bodies would share an ETag, so each version gets a number.
        numbered = record.model_copy(update={"rev": record.rev + 1})
        return StoredDelivery(*await commit(self._objects, _key(record.ref), numbered, etag=etag))


def _key(ref: EventRef) -> str:
    return keys.delivery(ref.tenant, ref.kind, ref.id, ref.sequence)

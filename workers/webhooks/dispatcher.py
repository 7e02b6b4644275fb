"""Schedules the due deliveries so that neither a slow receiver nor a tenant with many events delays the others.

Each poll lists the first page of every tenant; the further pages of one that has more follow between the polls. The
attempts in flight are bounded (`workers.webhooks.attempt_slots`), and slots go to the tenants in turn. An entry without
a slot waits and starts without another LIST once there is one. The next poll discards those still waiting, since
another deliverer may have sent them.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from storage.bucket.budget import on_behalf_of
from storage.errors import StorageError
from storage.index_keys import OutboxEntry
from storage.outbox import DuePage, Outbox
from storage.signal import OUTBOX_TOPIC, Bell, Signal
from workers.webhooks.attempt_slots import EVENTS, TESTS, AttemptSlots
from workers.webhooks.deliverer import Deliverer
from workers.webhooks.waiting import WaitingEntries

logger = logging.getLogger(__name__)

LATER_S = 2.0
"""Seconds between two tries of an entry whose event is not committed yet, or which another deliverer holds."""
MAX_PAGES = 10
"""LISTs of tenants per poll. The next poll continues behind them, so that thousands of tenants with events that are due
later delay no signal for long."""
MAX_FRUITLESS = 10
"""Further pages between two polls on which no entry can start: a tenant may have a million entries of one receiver."""

MAX_FURTHER = 100
"""Further pages between two polls in all, since the entries that cannot start are held until the next poll."""


class Dispatcher:
    """`poll_s` is the time between two polls without a signal."""

    def __init__(self, outbox: Outbox, deliverer: Deliverer, signal: Signal, *, poll_s: float) -> None:
        self._outbox = outbox
        self._deliverer = deliverer
        self._signal = signal
        self._poll_s = poll_s
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._events, self._tests = _Lane(AttemptSlots(EVENTS)), _Lane(AttemptSlots(TESTS))
        self._rest: dict[str, str] = {}
        """The tenants with further pages, and the key to continue after; the one listed longest ago comes first."""
        self._next_tenants = ""
        """The key to continue after if the last poll did not reach all tenants."""
        self._not_before: dict[str, float] = {}
        self._begun = 0
        self._ended = asyncio.Event()
        self._released: set[str] = set()
        """The tenants whose attempts have ended since slots were last given."""

    async def serve(self, stop: asyncio.Event) -> None:
        """Deliver events until `stop` is set, then wait for the attempts in flight."""
        with self._signal.listen(OUTBOX_TOPIC) as bell:
            while not stop.is_set():
                await self._poll()
                pause_s = 0.0 if self._next_tenants else self._poll_s
                await self._work(bell, stop, until=asyncio.get_running_loop().time() + pause_s)
        await self._finish()

    async def sweep(self, *, longest_s: float = 3600.0) -> None:
        """Deliver everything that is due now, and what becomes due meanwhile with a signal.

        No attempt starts after `longest_s`.
        """
        stop, begun = asyncio.Event(), -1
        limit = asyncio.get_running_loop().call_later(longest_s, stop.set)
        with self._signal.listen(OUTBOX_TOPIC) as bell:
            while begun != self._begun and not stop.is_set():
                begun = self._begun
                while await self._sweep_part(bell, stop) and not stop.is_set():
                    pass
        limit.cancel()
        await self._finish()

    async def _sweep_part(self, bell: Bell, stop: asyncio.Event) -> bool:
        """Deliver what one poll and some further pages list, and return whether more is to be listed."""
        await self._poll()
        rang = await self._work(bell, stop, until=None)
        return rang or bool(self._next_tenants or self._rest)

    async def _finish(self) -> None:
        while self._in_flight:
            await asyncio.wait(set(self._in_flight.values()))

    async def _poll(self) -> None:
        """List the first page of each tenant that has something due, and start attempts."""
        after, self._next_tenants = self._next_tenants, ""
        for lane in (self._events, self._tests):
            lane.waiting = WaitingEntries()
        try:
            for _ in range(MAX_PAGES):
                page = await self._outbox.due(after)
                self._take_in(page)
                if page.next_tenants is None:
                    return
                after = page.next_tenants
            self._next_tenants = after
        except StorageError as error:
            logger.warning("what is due could not be listed: %s", error)

    async def _work(self, bell: Bell, stop: asyncio.Event, *, until: float | None) -> bool:
        """Start entries as slots are released and list further pages, until a new poll is due.

        It is due when the bell rings, which is returned, and at `until`; with None, as soon as nothing is in flight, or
        some seconds after as many pages as may be held at once.
        """
        loop, is_sweep = asyncio.get_running_loop(), until is None
        listed = fruitless = 0
        while not stop.is_set():
            wait_s = self._poll_s if until is None else max(0.0, until - loop.time())
            may_list = listed < MAX_FURTHER and fruitless < MAX_FRUITLESS
            tenant = self._tenant_to_continue() if may_list else None
            if tenant is not None:
                listed += 1
                fruitless += 0 if await self._list_rest_of(tenant) else 1
                wait_s = 0.0  # the bell is heard between two pages
            elif wait_s == 0 or (is_sweep and not self._in_flight):
                break
            elif until is None and not may_list:
                until = loop.time() + LATER_S  # the next poll discards the entries that are held, and goes on
                continue
            if await self._rings(bell, stop, wait_s):
                return True
            if not stop.is_set():
                released, self._released = self._released, set()
                self._start(released)
        return False

    async def _rings(self, bell: Bell, stop: asyncio.Event, timeout_s: float) -> bool:
        """Return whether the bell rang within `timeout_s`, or before an attempt ended or `stop` was set."""
        ringing = asyncio.create_task(bell.wait(timeout_s))
        waiting = [ringing, asyncio.create_task(stop.wait()), asyncio.create_task(self._ended.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        self._ended.clear()
        rang = ringing.done() and ringing.result()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return rang

    def _tenant_to_continue(self) -> str | None:
        """Return a tenant that has further pages and may have further attempts, in turn; None if there is none."""
        lanes = self._events, self._tests
        return next((tenant for tenant in self._rest if any(lane.slots.has_room_of(tenant) for lane in lanes)), None)

    async def _list_rest_of(self, tenant: str) -> bool:
        """List a further page of a tenant and return whether an attempt was started."""
        begun, after = self._begun, self._rest.pop(tenant)
        try:
            self._take_in(await self._outbox.due_of(tenant, after))
        except StorageError as error:
            logger.warning("what is due could not be listed: %s", error)
        return self._begun > begun

    def _take_in(self, page: DuePage) -> None:
        now = asyncio.get_running_loop().time()
        for entry in page.entries:
            # Each LIST returns entries in flight again, until their attempts delete them.
            if entry.key not in self._in_flight and self._not_before.get(entry.key, now) <= now:
                self._lane_of(entry).waiting.add(entry)
        for tenant, after in page.rest.items():
            self._rest.setdefault(tenant, after)  # an earlier poll may have gone further
        self._start({entry.ref.tenant for entry in page.entries})

    def _start(self, tenants: Collection[str]) -> None:
        """Start the waiting entries of these tenants for which there are slots, one of each tenant in turn."""
        for lane in (self._events, self._tests):
            # The tenant with the fewest attempts comes first, so that a slot goes to one that has none.
            turns = deque(sorted(tenants, key=lane.slots.taken_by))
            while turns and not lane.slots.is_full():
                tenant = turns.popleft()
                entry = lane.waiting.take(tenant, lane.slots)
                if entry is not None:
                    self._begin(entry)
                    turns.append(tenant)

    def _lane_of(self, entry: OutboxEntry) -> "_Lane":
        return self._tests if entry.ref.kind == "test" else self._events

    def _begin(self, entry: OutboxEntry) -> None:
        self._begun += 1
        self._not_before.pop(entry.key, None)
        self._lane_of(entry).slots.take(entry)
        self._in_flight[entry.key] = asyncio.create_task(self._deliver(entry))

    async def _deliver(self, entry: OutboxEntry) -> None:
        result = "later"
        try:
            with on_behalf_of(entry.ref.tenant):
                result = await self._deliverer.deliver(entry)
        except StorageError as error:
            logger.warning("event %s was not delivered: %s", entry.ref.event_id, error)
        except Exception:
            logger.exception("event %s could not be delivered", entry.ref.event_id)
        finally:
            del self._in_flight[entry.key]
            self._release(entry)
            if result == "later":
                self._not_before[entry.key] = asyncio.get_running_loop().time() + LATER_S
            elif not self._in_flight:
                self._not_before.clear()  # bounds the dict, whose entries other deliverers may have deleted
            self._ended.set()

    def _release(self, entry: OutboxEntry) -> None:
        lane = self._lane_of(entry)
        # Without a free slot any tenant may have waited for this one, else only its own tenant.
        self._released.update(lane.waiting.tenants() if lane.slots.is_full() else (entry.ref.tenant,))
        lane.slots.release(entry)


@dataclass(slots=True)
class _Lane:
    """The attempts of one kind of entry: the slots and the entries that wait for one."""

    slots: AttemptSlots
    waiting: WaitingEntries = field(default_factory=WaitingEntries)

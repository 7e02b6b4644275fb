"""Schedules the due deliveries with bounded concurrency, so that a slow receiver does not delay others.

The attempts in flight are bounded per receiver, per host and per tenant; further entries wait. A waiting entry starts
without another LIST as soon as there is capacity. The next LIST discards those still waiting, since another deliverer
may have sent them.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable

from storage.errors import StorageError
from storage.index_keys import OutboxEntry
from storage.outbox import Outbox
from storage.signal import OUTBOX_TOPIC, Bell, Signal
from workers.webhooks.deliverer import Deliverer

logger = logging.getLogger(__name__)

AT_ONCE = 64
AT_ONCE_PER_ENDPOINT = 4
AT_ONCE_PER_HOST = 16
"""Attempts at one host, whatever the paths: a job can name a path of its own, so a receiver's limit is not enough."""
AT_ONCE_PER_TENANT = 32
"""Attempts of one tenant: the other half stays free if all its receivers hang."""
LATER_S = 2.0
"""Seconds between two tries of an entry whose event is not committed yet, or which another deliverer holds."""
MAX_PAGES = 10
"""LISTs per poll. If more is due, the next poll continues after them, so that thousands of waiting events of one
receiver do not hide the others."""


class Dispatcher:
    """`poll_s` is the time between two polls without a signal."""

    def __init__(self, outbox: Outbox, deliverer: Deliverer, signal: Signal, *, poll_s: float) -> None:
        self._outbox = outbox
        self._deliverer = deliverer
        self._signal = signal
        self._poll_s = poll_s
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._per_endpoint: Counter[str] = Counter()
        self._per_host: Counter[str] = Counter()
        self._per_tenant: Counter[str] = Counter()
        self._waiting: list[OutboxEntry] = []
        self._has_more = False
        self._not_before: dict[str, float] = {}
        self._ended = asyncio.Event()
        self._listed_up_to = ""

    async def serve(self, stop: asyncio.Event) -> None:
        """Deliver events until `stop` is set, then wait for the attempts in flight."""
        with self._signal.listen(OUTBOX_TOPIC) as bell:
            while not stop.is_set():
                await self._poll()
                await self._pause(bell, stop)
        await self.idle()

    async def sweep(self) -> None:
        """Deliver everything that is due now."""
        while await self._poll() or self._listed_up_to:
            await self.idle()

    async def idle(self) -> None:
        while self._under_way:
            await asyncio.wait(set(self._under_way.values()))

    async def _pause(self, bell: Bell, stop: asyncio.Event) -> None:
        """Wait for the next poll, and start waiting entries as others end."""
        loop = asyncio.get_running_loop()
        next_poll = loop.time() + self._poll_s
        while not await self._rings(bell, stop, max(0.0, next_poll - loop.time())) and not stop.is_set():
            waiting, self._waiting = self._waiting, []
            self._begin_all(waiting)
            if self._has_more and self._has_room:
                return  # capacity is free and more is due: list again at once

    async def _rings(self, bell: Bell, stop: asyncio.Event, patience_s: float) -> bool:
        """Return True at a signal or after `patience_s`, False if an attempt ended first or `stop` was set."""
        ringing = asyncio.create_task(bell.wait(patience_s))
        waiting = [ringing, asyncio.create_task(stop.wait()), asyncio.create_task(self._ended.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        self._ended.clear()
        rang = ringing.done()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return rang

    async def _poll(self) -> int:
        """List the due entries, start attempts, and return how many were started. Entries without capacity wait."""
        after, self._listed_up_to, begun = self._listed_up_to, "", 0
        self._waiting, self._has_more = [], False
        try:
            for _ in range(MAX_PAGES):
                entries, more = await self._outbox.due(after)
                begun += self._begin_all(entries)
                self._has_more = more is not None
                if more is None or not self._has_room:
                    return begun
                after = more
            self._listed_up_to = after
        except StorageError as error:
            logger.warning("what is due could not be listed: %s", error)
        return begun

    @property
    def _has_room(self) -> bool:
        return len(self._under_way) < AT_ONCE

    def _begin_all(self, entries: Iterable[OutboxEntry]) -> int:
        """Start the entries for which there is capacity and return their number; the others wait."""
        now, begun = asyncio.get_running_loop().time(), 0
        for entry in entries:
            # Each LIST returns entries in flight again, until their attempts delete them.
            if entry.key in self._under_way or self._not_before.get(entry.key, now) > now:
                continue
            if self._has_room_for(entry):
                self._begin(entry)
                begun += 1
            else:
                self._waiting.append(entry)  # starts when an attempt ends, without another LIST
        return begun

    def _has_room_for(self, entry: OutboxEntry) -> bool:
        return (
            self._has_room
            and self._per_endpoint[entry.endpoint] < AT_ONCE_PER_ENDPOINT
            and self._per_host[entry.host] < AT_ONCE_PER_HOST
            and self._per_tenant[entry.ref.tenant] < AT_ONCE_PER_TENANT
        )

    def _begin(self, entry: OutboxEntry) -> None:
        self._not_before.pop(entry.key, None)
        self._per_endpoint[entry.endpoint] += 1
        self._per_host[entry.host] += 1
        self._per_tenant[entry.ref.tenant] += 1
        self._under_way[entry.key] = asyncio.create_task(self._deliver(entry))

    async def _deliver(self, entry: OutboxEntry) -> None:
        result = "later"
        try:
            result = await self._deliverer.deliver(entry)
        except StorageError as error:
            logger.warning("event %s could not be seen to: %s", entry.ref.event_id, error)
        except Exception:
            logger.exception("event %s could not be delivered", entry.ref.event_id)
        finally:
            del self._under_way[entry.key]
            self._per_endpoint[entry.endpoint] -= 1
            self._per_host[entry.host] -= 1
            self._per_tenant[entry.ref.tenant] -= 1
            if result == "later":
                self._not_before[entry.key] = asyncio.get_running_loop().time() + LATER_S
            elif not self._under_way:
                self._not_before.clear()  # bounds the dict, whose entries other deliverers may have deleted
            self._ended.set()

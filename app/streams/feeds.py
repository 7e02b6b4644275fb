"""`Feeds`: the events of all jobs of a tenant. One poll for each tenant and process, whatever the number of streams."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice

from cachetools import LRUCache

from app.heavy import off_loop
from app.streams.story import OutputStored, Sent, StatusChanged, Story
from storage.bucket.budget import background, on_behalf_of
from storage.errors import StorageError
from storage.jobs.feed import JobFeed

logger = logging.getLogger(__name__)

POLL_S = 2.0
"""Seconds between two polls of a tenant's index."""
POLLS_PER_S = 5
"""Polls per second over all tenants."""
LINGER_S = 30.0
"""How long a feed goes on without a stream, so that a client that reconnects continues where it was."""
MOST_KEPT = 5_000
MOST_KEPT_BYTES = 4 * 1024**2
"""Events that a feed keeps for clients that reconnect or are slow, and the bytes of them."""
PIECE_BYTES = 64 * 1024
"""What a client is sent at once of the events that it missed, unless one event has more."""

MOST_OVER = 10_000
"""The ended jobs that a feed remembers."""

Render = Callable[[Sent], bytes]


class Feed:
    """The events of one tenant, numbered. Event ids are `<feed>-<number>`; another process has another feed."""

    def __init__(self, jobs: JobFeed, render: Render, pause_s: Callable[[], float]) -> None:
        self.streams = 0
        self.is_over = False
        self.ending: asyncio.TimerHandle | None = None
        self._jobs, self._render, self._pause_s = jobs, render, pause_s
        self._name = secrets.token_hex(8)
        self._stories: dict[str, Story] = {}
        self._over: LRUCache[str, None] = LRUCache(MOST_OVER)
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._count = 0
        self._has_polled = False
        self._changed = asyncio.Event()
        self._task = background(self._run())

    @property
    def position(self) -> int:
        """The number of the newest event."""
        return self._count

    @property
    def active(self) -> list[str]:
        return list(self._jobs.active)

    @property
    def is_complete(self) -> bool:
        return self._jobs.is_complete

    def event_id(self, number: int) -> str:
        return f"{self._name}-{number}"

    @property
    def newest_id(self) -> str | None:
        """The id from which a stream can be continued now; None before the first poll."""
        return self.event_id(self._count) if self._has_polled else None

    def number_of(self, event_id: str) -> int | None:
        """Return the number of an event of this feed from which a stream can be continued; else None."""
        name, _, number = event_id.partition("-")
        if name != self._name or not number.isdecimal() or len(number) > 15 or int(number) > self._count:
            return None
        return int(number) if self._keeps_after(int(number)) else None

    def next_after(self, number: int) -> list[bytes] | None:
        """Return the next events after this number, few at a time; None if they are no longer kept."""
        if not self._keeps_after(number):
            return None
        piece, size = list[bytes](), 0
        for event in islice(self._kept, len(self._kept) - (self._count - number), None):
            size += len(event)
            if piece and size > PIECE_BYTES:
                break
            piece.append(event)
        return piece

    def _keeps_after(self, number: int) -> bool:
        return self._count - number <= len(self._kept)

    async def wait(self, number: int, timeout_s: float) -> None:
        """Wait for an event after this number, and for the first poll."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.is_over and (self._count <= number or not self._has_polled):
                    await self._changed.wait()
        except TimeoutError:
            pass

    async def polled(self, timeout_s: float) -> bool:
        """Wait for the first poll; return whether it succeeded in time."""
        await self.wait(-1, timeout_s)
        return self._has_polled

    def end(self) -> None:
        self.is_over = True
        self._wake()

    async def stop(self) -> None:
        self.end()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._poll()
            except StorageError as error:  # the next poll finds the same changes
                logger.info("the index of jobs could not be read: %s", error)
            await asyncio.sleep(self._pause_s())

    async def _poll(self) -> None:
        for record in sorted(await self._jobs.poll(), key=lambda one: one.created_at):
            # A stale index key leads to a job again whose end was sent.
            if record.job_id in self._over:
                continue
            events, story = await off_loop(self._stories.get(record.job_id, Story()).after, record)
            # Progress would cost a GET of every running job at each poll.
            shown = [sent for sent in events if isinstance(sent.event, StatusChanged | OutputStored)]
            if record.status.is_terminal:
                self._stories.pop(record.job_id, None)
                self._over[record.job_id] = None
            else:
                self._stories[record.job_id] = story
            self._keep(await off_loop(self._rendered, shown))
            self._wake()
        if not self._has_polled:
            self._has_polled = True
            self._wake()

    def _keep(self, rendered: Sequence[bytes]) -> None:
        self._kept.extend(rendered)
        self._kept_bytes += sum(map(len, rendered))
        self._count += len(rendered)
        while len(self._kept) > MOST_KEPT or self._kept_bytes > MOST_KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft())

    def _rendered(self, events: Sequence[Sent]) -> list[bytes]:
        return [
            self._render(replace(sent, id=self.event_id(self._count + number)))
            for number, sent in enumerate(events, start=1)
        ]

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Feeds:
    """The feeds of this process, by tenant."""

    def __init__(self, open_feed: Callable[[str], JobFeed], render: Render, *, poll_s: float = POLL_S) -> None:
        self._open, self._render = open_feed, render
        self._poll_s = poll_s
        self._feeds: dict[str, Feed] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._is_over = False

    @asynccontextmanager
    async def joined(self, tenant: str) -> AsyncIterator[Feed]:
        """Keep the tenant's feed while the context is open, and a while longer."""
        feed = self._feeds.get(tenant)
        if feed is None:
            with on_behalf_of(tenant):
                feed = self._feeds[tenant] = Feed(self._open(tenant), self._render, self._pause_s)
        if self._is_over:
            feed.end()
        if feed.ending is not None:
            feed.ending.cancel()
        feed.streams += 1
        try:
            yield feed
        finally:
            feed.streams -= 1
            if feed.streams == 0:
                feed.ending = asyncio.get_running_loop().call_later(LINGER_S, self._close, tenant)

    def newest_id(self, tenant: str) -> str | None:
        """Return the id from which a stream of the tenant can be continued now; None if it has no feed."""
        feed = self._feeds.get(tenant)
        return None if feed is None else feed.newest_id

    def _pause_s(self) -> float:
        return max(self._poll_s, len(self._feeds) / POLLS_PER_S)

    def _close(self, tenant: str) -> None:
        task = asyncio.ensure_future(self._feeds.pop(tenant).stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def end(self) -> None:
        """End all streams before the process stops."""
        self._is_over = True
        for tenant, feed in tuple(self._feeds.items()):
            feed.end()
            if feed.ending is not None:
                feed.ending.cancel()
            self._close(tenant)

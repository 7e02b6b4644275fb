"""Waits for a job or a batch to change. All waiters on one share one poll, and a signal triggers a job's early."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from storage.bucket.budget import background, on_behalf_of
from storage.errors import BatchNotFound, JobNotFound, StorageError
from storage.jobs.record import JobRecord
from storage.jobs.store import JobStore, StoredJob
from storage.signal import Bell, Signal, job_topic

POLL_S = 1.0
"""Seconds between two polls of a job without a signal."""
READS_PER_S = 200
"""Polls per second over all jobs, signalled ones excepted: other requests need the bucket's connections as well."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Watched(Generic[T]):
    """What is watched. `key` is its tenant and its id; `topic` is that of its signal, None if it has none."""

    key: tuple[str, str]
    topic: str | None
    read: Callable[[], Awaitable[T]]
    is_newer: Callable[[T, T], bool]
    """Whether the first state replaces the second, which was read before it."""

    @property
    def tenant(self) -> str:
        return self.key[0]


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things without a signal are polled: each after `shortest_s`, all together `reads_per_s` times a second.

    Tenants have equal shares of the latter, so that the polls of one do not delay those of another.
    """

    shortest_s: float
    reads_per_s: float

    def pause_s(self, watched: Mapping[str, int], tenant: str) -> float:
        """Return the seconds between two polls of a thing of the tenant. `watched` has the number of each tenant's."""
        return max(self.shortest_s, watched.get(tenant, 1) * len(watched) / self.reads_per_s)


class Watch(Generic[T]):
    """Long polls of this process, one poll task for each watched thing."""

    def __init__(self, signal: Signal, pace: "Pace") -> None:
        self._signal = signal
        self._pace = pace
        self._polls: dict[tuple[str, str], Poll[T]] = {}
        self._watched = Counter[str]()
        self._is_over = False

    async def changed(self, watched: Watched[T], state: T, wanted: Callable[[T], bool], timeout_s: float) -> T:
        """Return the state once `wanted` holds, or the latest one after `timeout_s`. `state` was just read.

        Raises `JobGone` or `BatchGone` on removal.
        """
        if self._is_over or wanted(state):
            return state
        async with self.following(watched, state) as poll:
            return await poll.until(wanted, timeout_s)

    @asynccontextmanager
    async def following(self, watched: Watched[T], state: T) -> AsyncIterator["Poll[T]"]:
        """Keep the poll of a thing while the context is open, for a caller that waits for many of its changes."""
        poll = self._polls.get(watched.key)
        if poll is None:
            with on_behalf_of(watched.tenant):  # whose turns at the bucket the polls take
                poll = Poll(watched, self._signal, state, lambda: self._pace.pause_s(self._watched, watched.tenant))
            self._polls[watched.key] = poll
            self._watched[watched.tenant] += 1
            if self._is_over:
                poll.end()
        else:
            poll.offer(state)  # the poll's own state may be older, and would end the wait at once
        poll.waiters += 1
        try:
            yield poll
        finally:
            poll.waiters -= 1
            if poll.waiters == 0:
                # Removed before the next await: a new waiter must not join a poll that is being stopped.
                del self._polls[watched.key]
                self._watched -= Counter((watched.tenant,))  # which also drops a tenant without polls
                await poll.stop()

    def end(self) -> None:
        """End all waits before the process stops. Waiters get the latest state, and later calls do not wait."""
        self._is_over = True
        for poll in self._polls.values():
            poll.end()


class JobWatch(Watch[StoredJob]):
    def __init__(self, jobs: JobStore, signal: Signal) -> None:
        super().__init__(signal, Pace(POLL_S, READS_PER_S))
        self._jobs = jobs

    async def until(self, stored: StoredJob, wanted: Callable[[JobRecord], bool], timeout_s: float) -> StoredJob:
        """Do as `changed` for a job that was just read."""
        return await self.changed(self._watched_job(stored), stored, lambda job: wanted(job.record), timeout_s)

    def follow(self, stored: StoredJob) -> AbstractAsyncContextManager["Poll[StoredJob]"]:
        """Do as `following` for a job that was just read."""
        return self.following(self._watched_job(stored), stored)

    def _watched_job(self, stored: StoredJob) -> Watched[StoredJob]:
        tenant, job_id = stored.record.tenant, stored.record.job_id
        return Watched(
            (tenant, job_id),
            job_topic(tenant, job_id),
            lambda: self._jobs.read(tenant, job_id),
            lambda one, other: one.record.rev > other.record.rev,
        )


class Poll(Generic[T]):
    """The poll of one thing, shared by all of its waiters."""

    def __init__(self, watched: Watched[T], signal: Signal, state: T, pause_s: Callable[[], float]) -> None:
        self.waiters = 0
        self.is_over = False
        """Whether the process stops, so that no wait is worthwhile any more."""
        self._watched = watched
        self._signal = signal
        self._pause_s = pause_s
        self.latest = state
        self._gone: StorageError | None = None
        self._changed = asyncio.Event()
        self._task = background(self._run())  # later waiters share it, so it does not spend the first one's budget

    async def until(self, wanted: Callable[[T], bool], timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                while self._gone is None and not self.is_over and not wanted(self.latest):
                    await self._changed.wait()
        except TimeoutError:  # the wait is over, and the latest state is the result
            pass
        if self._gone is not None:
            raise self._gone
        return self.latest

    def offer(self, state: T) -> None:
        """Take over a state that was read elsewhere."""
        if self._watched.is_newer(state, self.latest):
            self.latest = state
            self.wake()

    def end(self) -> None:
        self.is_over = True
        self.wake()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        # The traceback of the task's error refers to this poll. In a cycle, its state would stay in memory until a full
        # garbage collection, which an idle process does not make.
        del self._task

    async def _run(self) -> None:
        if self._watched.topic is None:
            await self._repeat(Bell())
            return
        with self._signal.listen(self._watched.topic) as bell:
            await self._repeat(bell)

    async def _repeat(self, bell: Bell) -> None:
        # The first read comes before the first wait: it may have changed before this listener existed.
        while self._gone is None:
            await self._read()
            await bell.wait(self._pause_s())

    async def _read(self) -> None:
        try:
            latest = await self._watched.read()
        except (JobNotFound, BatchNotFound) as gone:
            self._gone = gone.with_traceback(None)  # its frames hold this poll, as in `stop`
            self.wake()
        except StorageError:
            return  # the next poll retries
        else:
            self.offer(latest)

    def wake(self) -> None:
        """Let every waiter check again what it waits for."""
        # The event is replaced, not cleared: a waiter that resumes late must not miss the change.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

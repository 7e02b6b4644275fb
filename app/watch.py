"""Waits for a job to change. All waiters on a job share one poll, and a signal triggers it early."""

import asyncio
from collections.abc import Callable

from storage.bucket.budget import background
from storage.errors import JobNotFound, StorageError
from storage.jobs.record import JobRecord
from storage.jobs.store import JobStore, StoredJob
from storage.signal import Signal, job_topic

POLL_S = 1.0
"""Seconds between two polls of a job without a signal."""
READS_PER_S = 200
"""Polls per second over all jobs, signalled ones excepted: other requests need the bucket's connections as well."""

Wanted = Callable[[JobRecord], bool]


class JobWatch:
    """Long polls of this process, one poll task for each watched job."""

    def __init__(self, jobs: JobStore, signal: Signal) -> None:
        self._jobs = jobs
        self._signal = signal
        self._polls: dict[tuple[str, str], _Poll] = {}
        self._is_over = False

    async def until(self, stored: StoredJob, wanted: Wanted, timeout_s: float) -> StoredJob:
        """Return the job once `wanted` holds, or its latest state after `timeout_s`. Raises `JobGone` on removal."""
        if self._is_over or wanted(stored.record):
            return stored
        key = (stored.record.tenant, stored.record.job_id)
        poll = self._polls.get(key)
        if poll is None:
            poll = self._polls[key] = _Poll(self._jobs, self._signal, stored, lambda: pause_s(len(self._polls)))
        poll.waiters += 1
        try:
            return await poll.until(wanted, timeout_s)
        finally:
            poll.waiters -= 1
            if poll.waiters == 0:
                # Removed before the next await: a new waiter must not join a poll that is being stopped.
                del self._polls[key]
                await poll.stop()

    def end(self) -> None:
        """End all waits before the process stops. Waiters get the job's latest state, and later calls do not wait."""
        self._is_over = True
        for poll in self._polls.values():
            poll.end()


def pause_s(jobs: int) -> float:
    """Return the seconds between two polls of one job when `jobs` jobs are watched."""
    return max(POLL_S, jobs / READS_PER_S)


class _Poll:
    """The poll of one job, shared by all of its waiters."""

    def __init__(self, jobs: JobStore, signal: Signal, stored: StoredJob, pause_s: Callable[[], float]) -> None:
        self.waiters = 0
        self._pause_s = pause_s
        self._jobs = jobs
        self._signal = signal
        self._latest = stored
        self._gone: JobNotFound | None = None
        self._is_over = False
        self._changed = asyncio.Event()
        self._task = background(self._run())  # later waiters share it, so it does not spend the first one's budget

    async def until(self, wanted: Wanted, timeout_s: float) -> StoredJob:
        try:
            async with asyncio.timeout(timeout_s):
                while self._gone is None and not self._is_over and not wanted(self._latest.record):
                    await self._changed.wait()
        except TimeoutError:  # the wait is over, and the latest state is the result
            pass
        if self._gone is not None:
            raise self._gone
        return self._latest

    def end(self) -> None:
        self._is_over = True
        self._wake()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        record = self._latest.record
        with self._signal.listen(job_topic(record.tenant, record.job_id)) as bell:
            # The first read comes before the first wait: the job may have changed before this listener existed.
            while self._gone is None:
                await self._read()
                await bell.wait(self._pause_s())

    async def _read(self) -> None:
        record = self._latest.record
        try:
            latest = await self._jobs.read(record.tenant, record.job_id)
        except JobNotFound as gone:
            self._gone = gone
            self._wake()
        except StorageError:
            return  # the next poll retries
        else:
            if latest.record.rev != record.rev:
                self._latest = latest
                self._wake()

    def _wake(self) -> None:
        # The event is replaced, not cleared: a waiter that resumes late must not miss the change.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

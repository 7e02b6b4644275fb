"""Waiting for a job to change. Many waiters on one job share one poll, and a signal makes it quick."""

import asyncio
from collections.abc import Callable

from storage.bucket.budget import background
from storage.errors import JobNotFound, StorageError
from storage.jobs.record import JobRecord
from storage.jobs.store import JobStore, StoredJob
from storage.signal import Signal, job_topic

POLL_S = 1.0
"""Between two looks at the bucket when no signal comes."""
LOOKS_A_SECOND = 200
"""Of all jobs together, but for those that a signal asks for: the bucket's connections are for other requests too."""

Wanted = Callable[[JobRecord], bool]


class JobWatch:
    def __init__(self, jobs: JobStore, signal: Signal) -> None:
        self._jobs = jobs
        self._signal = signal
        self._polls: dict[tuple[str, str], _Poll] = {}
        self._is_over = False

    async def until(self, stored: StoredJob, wanted: Wanted, timeout_s: float) -> StoredJob:
        """The job once `wanted` holds, or as it is after `timeout_s`; `JobGone` if it is removed meanwhile."""
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
                del self._polls[key]
                await poll.stop()

    def end(self) -> None:
        """Before the process stops: whoever waits gets the job as it is, and nobody waits from now on."""
        self._is_over = True
        for poll in self._polls.values():
            poll.end()


def pause_s(jobs: int) -> float:
    """Between two looks at one of so many jobs."""
    return max(POLL_S, jobs / LOOKS_A_SECOND)


class _Poll:
    """The one look at the bucket that all waiters of a job share."""

    def __init__(self, jobs: JobStore, signal: Signal, stored: StoredJob, pause_s: Callable[[], float]) -> None:
        self.waiters = 0
        self._pause_s = pause_s
        self._jobs = jobs
        self._signal = signal
        self._latest = stored
        self._gone: JobNotFound | None = None
        self._is_over = False
        self._changed = asyncio.Event()
        self._task = background(self._run())

    async def until(self, wanted: Wanted, timeout_s: float) -> StoredJob:
        try:
            async with asyncio.timeout(timeout_s):
                while self._gone is None and not self._is_over and not wanted(self._latest.record):
                    await self._changed.wait()
        except TimeoutError:
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
            while self._gone is None:
                await self._look()
                await bell.wait(self._pause_s())

    async def _look(self) -> None:
        record = self._latest.record
        try:
            latest = await self._jobs.read(record.tenant, record.job_id)
        except JobNotFound as gone:
            self._gone = gone
            self._wake()
        except StorageError:
            return  # look again at the next turn
        else:
            if latest.record.rev != record.rev:
                self._latest = latest
                self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

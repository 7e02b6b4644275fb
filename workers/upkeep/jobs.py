"""Handles the timers of jobs: acts on what is due and completes what a dead process left undone.

no record     its timer moves to a day later; then a tombstone takes its place, and its objects are deleted
queued        fails at its limit; its index keys are rewritten before that
running       returns to the queue, or fails, if its lease has expired
ended         removed once it has expired and its events were delivered; until then their entries are rewritten
removed       its remaining objects are deleted
"""

from dataclasses import replace
from datetime import timedelta
from typing import assert_never

from storage.errors import JobGone, JobNotFound
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import StoredJob
from storage.jobs.timers import ABANDONED, YOUNG, is_early_enough
from storage.stores import Stores
from storage.timers import Timer

EVENTS_PENDING = timedelta(minutes=10)
"""Time between two checks of an expired job whose events are not all delivered."""

LAST_LINES = 20
"""Lines of a lost worker's log that become part of `worker_lost`."""


class JobTimers:
    """`max_attempts` is how often a job may lose its worker before it fails with `worker_lost`."""

    def __init__(self, stores: Stores, *, max_attempts: int) -> None:
        self._stores = stores
        self._max_attempts = max_attempts

    async def on_due(self, timer: Timer) -> Timer | None:
        """Act on a due timer, see `TimerHandler.on_due`."""
        age = self._stores.clock.now() - timer.armed_at
        try:
            stored = await self._stores.jobs.read(timer.tenant, timer.id)
        except JobGone:
            return await self._stores.remover.collect_garbage(timer)
        except JobNotFound as missing:
            if age < YOUNG:
                return timer  # the commit that names it may be under way
            # A job that exists would lose this timer, and with it the end of its lease or of its wait.
            await self._stores.jobs.confirm_missing(timer.tenant, timer.id, missing)
            if age < ABANDONED:
                # The timer is moved, not kept, since each due timer costs every sweep a GET.
                return replace(timer, due=timer.armed_at + ABANDONED)
            await self._stores.remover.remove_unaccepted(timer.tenant, timer.id, timer.armed_at)
            return None
        if stored.record.timer == timer.key:
            return await self._reconcile(stored, timer)
        if age < YOUNG:
            return timer  # the commit that names it may be under way
        await self._stores.remover.delete_rows_of(timer, stored.record)
        await self._fence(stored)
        return None

    async def _fence(self, stored: StoredJob) -> None:
        """Commit a change, so that the paused writer of an old timer can no longer commit."""
        record = stored.record
        if record.status.is_terminal and record.due_at <= self._stores.clock.now():
            await self._remove(stored)
        else:
            # The new timer also replaces one that was moved before the commit that names it.
            await self._stores.jobs.rearm(stored, record.due_at)

    async def _reconcile(self, stored: StoredJob, timer: Timer) -> Timer | None:
        """Act on the record that names this timer; return the timer if it stays.

        Raises `PreconditionFailed` if another writer is first. The next sweep tries again if the timer still exists.
        """
        record, now = stored.record, self._stores.clock.now()
        match record.status:
            case Status.RUNNING:
                if not record.has_lost_its_worker(now):
                    return timer
                log_tail = await self._last_lines(record)
                after = record.expire(now=now, max_attempts=self._max_attempts, log_tail=log_tail)
                stored = await self._stores.jobs.advance(stored, after)
            case _ if record.due_at > now and is_early_enough(timer.due, record):
                return timer
            case Status.QUEUED:
                await self._stores.jobs.publish(record)  # the index keys of a job whose submitter died may be missing
                stored = await self._stores.jobs.advance(stored, record.expire_in_queue(now=now))
            case Status.COMPLETED | Status.FAILED if record.due_at > now:
                stored = await self._stores.jobs.advance(stored, record)
            case Status.COMPLETED | Status.FAILED:
                await self._remove(stored)
                return None
            case _:
                assert_never(record.status)
        return timer if stored.record.timer == timer.key else None

    async def _remove(self, stored: StoredJob) -> None:
        record = stored.record
        if await self._stores.remover.is_free_to_go(record):
            await self._stores.remover.purge(stored)
            return
        await self._stores.outbox.announce_again(record)
        await self._stores.jobs.rearm(stored, self._stores.clock.now() + EVENTS_PENDING)

    async def _last_lines(self, record: JobRecord) -> tuple[str, ...] | None:
        return await self._stores.logs.tail(record.tenant, record.job_id, record.attempt, LAST_LINES)

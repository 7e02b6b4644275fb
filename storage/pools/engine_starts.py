"""The recent starts of a pool's engine: a breaker that ends endless restarts.

    a start begins ──▶ it succeeds: the count is 0 again
                   ──▶ it fails, or its container dies: one more failure in a row
    as many failures as allowed ──▶ no worker is started for a pause; then one may try

One object per pool is changed by conditional writes. A start is recorded before it begins and renewed while it lasts,
so a container that is killed during the start counts as a failure without a report.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cachetools import TTLCache

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.bucket.records import Model, commit, compare_and_swap, read_as
from storage.clock import Clock, expiring_cache
from storage.errors import ObjectNotFound, RecordUnreadable
from storage.launcher import Launcher

logger = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
PAUSE_S = 300.0
CACHE_LIFE = timedelta(seconds=5)
MOST_STARTING = 100
"""Maximum concurrent starts in the record; beyond it the oldest are discarded."""
DIED = "its container ended while the engine was starting"


class Starting(Model):
    """A start that has not ended, renewed at `renewed_at`. `is_counted`: it has expired and counts as a failure."""

    worker: str
    renewed_at: datetime
    is_counted: bool = False


class FailedStart(Model):
    """`log_tail` has the engine's last lines."""

    worker: str
    at: datetime
    message: str
    log_tail: tuple[str, ...] = ()


class EngineStarts(Model):
    """`failures` counts those in a row; `last` is the latest. Each method returns the record after the change."""

    nonce: str = ""
    failures: int = 0
    last: FailedStart | None = None
    starting: tuple[Starting, ...] = ()

    def counted(self, now: datetime, lease: timedelta) -> "EngineStarts":
        """Count the starts that were not renewed for a lease as failures."""
        dead = [one for one in self.starting if not one.is_counted and one.renewed_at + lease <= now]
        if not dead:
            return self
        latest = max(dead, key=lambda one: one.renewed_at)
        ended = FailedStart(worker=latest.worker, at=latest.renewed_at + lease, message=DIED)
        # An engine's own message explains more than the end of a container, so it is kept.
        last = self.last.model_copy(update={"at": max(self.last.at, ended.at)}) if self.last else ended
        starting = tuple(one.model_copy(update={"is_counted": True}) if one in dead else one for one in self.starting)
        return self.model_copy(update={"failures": self.failures + len(dead), "last": last, "starting": starting})

    def begun(self, worker: str, now: datetime) -> "EngineStarts":
        others = self.without(worker).starting[-(MOST_STARTING - 1) :]
        return self.model_copy(update={"starting": (*others, Starting(worker=worker, renewed_at=now))})

    def renewed(self, worker: str, now: datetime) -> "EngineStarts":
        changed = (one.model_copy(update={"renewed_at": now}) if one.worker == worker else one for one in self.starting)
        return self.model_copy(update={"starting": tuple(changed)})

    def without(self, worker: str) -> "EngineStarts":
        return self.model_copy(update={"starting": tuple(one for one in self.starting if one.worker != worker)})

    def failed(self, failure: FailedStart) -> "EngineStarts":
        """Count a start as failed."""
        # A slow start whose lease had expired has been counted already.
        is_counted = any(one.is_counted for one in self.starting if one.worker == failure.worker)
        failures = self.failures + (0 if is_counted else 1)
        return self.without(failure.worker).model_copy(update={"failures": failures, "last": failure})

    def succeeded(self, worker: str) -> "EngineStarts":
        # The others may still be starting; a start that was counted as a failure is forgotten with the failures.
        return EngineStarts(starting=tuple(one for one in self.without(worker).starting if not one.is_counted))


@dataclass(frozen=True, slots=True)
class StartPolicy:
    """After `max_failures` in a row no worker is started for `pause`. A start that is not renewed within `lease` has
    failed."""

    max_failures: int = MAX_FAILED_STARTS
    pause: timedelta = timedelta(seconds=PAUSE_S)
    lease: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class StartState:
    """`paused_until` is None if another start may be tried."""

    failures: int
    last: FailedStart | None
    is_exhausted: bool
    paused_until: datetime | None

    @property
    def message(self) -> str:
        words = self.last.message if self.last is not None else "no reason is known"
        return f"the engine could not be started, {self.failures} times in a row: {words}"


WELL = StartState(0, None, is_exhausted=False, paused_until=None)
"""The state of a pool whose latest start succeeded, or that had none."""


class EngineStartStore:
    def __init__(self, objects: ObjectStore, clock: Clock, policy: StartPolicy) -> None:
        self.policy = policy
        self._objects = objects
        self._clock = clock
        self._states: TTLCache[str, StartState] = expiring_cache(clock, CACHE_LIFE, size=64)

    async def state(self, pool: str) -> StartState:
        """Return the pool's state, for one GET."""
        starts, _ = await self._read(pool)
        state = self._state_of(starts.counted(self._clock.now(), self.policy.lease))
        self._states[pool] = state
        return state

    def _state_of(self, starts: EngineStarts) -> StartState:
        last = starts.last
        if last is None or starts.failures < self.policy.max_failures:
            return StartState(starts.failures, last, is_exhausted=False, paused_until=None)
        until = last.at + self.policy.pause
        is_over = until <= self._clock.now()
        return StartState(starts.failures, last, is_exhausted=True, paused_until=None if is_over else until)

    async def recent_state(self, pool: str) -> StartState:
        """Return the pool's state, at most `CACHE_LIFE` old."""
        cached = self._states.get(pool)
        return await self.state(pool) if cached is None else cached

    async def begin(self, pool: str, worker: str) -> None:
        await self._evolve(pool, lambda starts: starts.begun(worker, self._clock.now()))

    async def renew(self, pool: str, worker: str) -> None:
        """Renew the lease of a start that has begun."""
        await self._evolve(pool, lambda starts: starts.renewed(worker, self._clock.now()))

    async def withdraw(self, pool: str, worker: str) -> None:
        """Remove a start that ended for a reason other than the engine."""
        await self._evolve(pool, lambda starts: starts.without(worker))

    async def fail(self, pool: str, worker: str, message: str, log_tail: tuple[str, ...] = ()) -> None:
        failure = FailedStart(worker=worker, at=self._clock.now(), message=message, log_tail=log_tail)
        await self._evolve(pool, lambda starts: starts.failed(failure))

    async def succeed(self, pool: str, worker: str) -> None:
        await self._evolve(pool, lambda starts: starts.succeeded(worker))

    async def forget(self, pool: str) -> None:
        """Delete the record, since a new deployment does not inherit its failures."""
        await self._objects.delete(keys.engine_starts(pool))
        self._states[pool] = WELL

    async def _evolve(self, pool: str, change: Callable[[EngineStarts], EngineStarts]) -> None:
        async def write(found: tuple[EngineStarts, str | None]) -> None:
            starts, etag = found
            # Starts that died are counted by whatever change comes next, since no process reports them.
            changed = change(starts.counted(self._clock.now(), self.policy.lease))
            await commit(self._objects, keys.engine_starts(pool), changed, etag=etag)

        await compare_and_swap(f"how pool {pool} starts", lambda: self._read(pool), write)

    async def _read(self, pool: str) -> tuple[EngineStarts, str | None]:
        """Return the record and its ETag. A record that this version cannot read counts as empty and is replaced."""
        key = keys.engine_starts(pool)
        try:
            stored = await self._objects.get(key)
        except ObjectNotFound:
            return EngineStarts(), None
        try:
            return read_as(EngineStarts, key, stored.body), stored.head.etag
        except RecordUnreadable as error:
            logger.warning("earlier starts are not known: %s", error)
            return EngineStarts(), stored.head.etag


class PausingLauncher:
    """A `Launcher` that requests no worker of a pool while its engine starts are paused."""

    def __init__(self, launcher: Launcher, starts: EngineStartStore) -> None:
        self._launcher = launcher
        self._starts = starts

    async def spawn(self, pool: str) -> str | None:
        # Cached, because every submission asks for a worker.
        if (await self._starts.recent_state(pool)).paused_until is not None:
            return None
        return await self._launcher.spawn(pool)

    async def waiting(self, pool: str) -> int | None:
        return await self._launcher.waiting(pool)

    async def most_containers(self, pool: str) -> int | None:
        return await self._launcher.most_containers(pool)

    async def cancel(self, ticket: str) -> None:
        await self._launcher.cancel(ticket)

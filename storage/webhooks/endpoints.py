"""The health of each webhook receiver: a circuit breaker.

closed ──5 failures in a row──▶ open ──its time is over──▶ one probe ──▶ closed, or open for twice as long
any ──410, `webhook-delivery: disable`, 5 days of failures──▶ disabled, until a replay or a test
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from weakref import WeakValueDictionary

from storage import keys
from storage.bucket.objects import ObjectStore, StoredObject, confirm_absence
from storage.bucket.records import Model, commit, compare_and_swap, read_as
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import ObjectNotFound, PreconditionFailed
from storage.jobs.index import endpoint_of
from storage.timers import Timer

OPEN_AFTER = 5
FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=1)
PROBE = timedelta(seconds=30)
DISABLE_AFTER = timedelta(days=5)
FORGOTTEN_AFTER = timedelta(days=30)
QUIET = timedelta(minutes=5)
"""Minimum time between two writes of a healthy receiver's success."""
TRUSTED_FOR = timedelta(seconds=10)
"""Cache lifetime of a receiver that was healthy."""


class Endpoint(Model):
    tenant: str
    url: str
    rev: int = 0
    nonce: str = ""
    failures: int = 0
    """The number of failures in a row."""
    failing_since: datetime | None = None
    last_success_at: datetime | None = None
    open_until: datetime | None = None
    disabled_reason: str | None = None
    agreed_at: datetime | None = None
    """When the receiver agreed in the handshake, if one is required."""

    @property
    def state(self) -> Literal["closed", "open", "disabled"]:
        if self.disabled_reason is not None:
            return "disabled"
        return "closed" if self.open_until is None else "open"

    def succeeded(self, now: datetime) -> "Endpoint":
        fresh = self.last_success_at is not None and now - self.last_success_at < QUIET
        if self.failures == 0 and self.open_until is None and self.disabled_reason is None and fresh:
            return self
        return Endpoint(tenant=self.tenant, url=self.url, rev=self.rev, last_success_at=now, agreed_at=self.agreed_at)

    def agreed(self, now: datetime) -> "Endpoint":
        return self.model_copy(update={"agreed_at": now})

    def failed(self, now: datetime, *, disable: str | None = None, scale: float = 1.0) -> "Endpoint":
        """Return the record after a failure. `scale` multiplies the pause."""
        failures, since = self.failures + 1, self.failing_since or now
        if disable is None and now - since >= DISABLE_AFTER:
            disable = f"it has failed since {since.isoformat(timespec='seconds')}"
        # The exponent is bounded first: a timedelta overflows after a few dozen failures.
        pause = min(FIRST_PAUSE * 2 ** min(max(failures - OPEN_AFTER, 0), 10), LONGEST_PAUSE)
        return self.model_copy(
            update={
                "failures": failures,
                "failing_since": since,
                "open_until": now + scale * pause if failures >= OPEN_AFTER else None,
                "disabled_reason": disable or self.disabled_reason,
            }
        )

    def probed(self, until: datetime) -> "Endpoint":
        return self.model_copy(update={"open_until": until})

    def enabled(self) -> "Endpoint":
        """Return the record enabled by a person; unchanged if it is healthy.

        One more failure opens the breaker again, with the first pause.
        """
        if self.open_until is None and self.disabled_reason is None and self.failing_since is None:
            return self
        failures = min(self.failures, OPEN_AFTER - 1)
        return self.model_copy(
            update={"open_until": None, "disabled_reason": None, "failing_since": None, "failures": failures}
        )


MOST_TRUSTED = 10_000
"""Maximum size of the cache, which is then cleared."""


@dataclass(frozen=True, slots=True)
class StoredEndpoint:
    record: Endpoint
    etag: str | None


class EndpointStore:
    """`probe` is the time that one sender has to probe a receiver."""

    def __init__(self, objects: ObjectStore, clock: Clock, *, probe: timedelta = PROBE) -> None:
        self._objects = objects
        self._clock = clock
        self._probe = probe
        self._reserving: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._trusted_until: dict[tuple[str, str], datetime] = {}

    async def reserve(self, tenant: str, urls: Iterable[str], *, at_most: int) -> timedelta | None:
        """Register these receivers. If the tenant would have more than `at_most`, store none, and return the time after
        which there is room for them.

        Costs one LIST if all are known, and a GET for each receiver of the tenant if there is no room.
        """
        wanted = {keys.endpoint(tenant, endpoint_of(url)): url for url in urls}
        if wanted.keys() <= await self._listed(tenant, at_most):
            return None
        # One request of a tenant at a time, because concurrent ones could exceed the limit together.
        lock = self._reserving.setdefault(tenant, asyncio.Lock())
        async with lock:
            # Listed again under the lock, because another request may have stored receivers meanwhile.
            listed = await self._listed(tenant, at_most)
            if (excess := len(listed | wanted.keys()) - at_most) > 0:
                free_in = await self._room_for(excess, listed - wanted.keys())
                if free_in > timedelta(0):
                    return free_in
            await map_bounded(wanted.keys() - listed, lambda key: self._introduce(tenant, wanted[key]))
        return None

    async def _room_for(self, excess: int, receivers: Collection[str]) -> timedelta:
        """Return the time after which so many of the receivers are forgotten, 0 if they are already."""
        found = await map_bounded(receivers, self._last_sent_to)
        ends = sorted(moment + FORGOTTEN_AFTER for moment in found if moment is not None)
        # The others are gone already. One whose end has passed is deleted by the next sweep, and does not count either.
        still = excess - (len(found) - len(ends))
        return ends[still - 1] - self._clock.now() if still > 0 else timedelta(0)

    async def _last_sent_to(self, key: str) -> datetime | None:
        found = await self._found(key)
        return None if found is None else found.head.last_modified

    async def has_agreed(self, tenant: str, url: str) -> bool:
        return (await self._read(tenant, url)).record.agreed_at is not None

    async def may_send(self, tenant: str, url: str) -> datetime | str | None:
        """Return None if the receiver may be sent to now, else the end of its pause, or why it is disabled.

        If a probe is due, only one caller gets None and makes the probe.
        """
        if self._is_trusted(tenant, url):
            return None
        stored = await self._read(tenant, url)
        record, now = stored.record, self._clock.now()
        if record.disabled_reason is not None:
            return record.disabled_reason
        if record.open_until is None:
            return None
        if record.open_until > now:
            return record.open_until
        try:
            await self._write(stored, record.probed(now + self._probe))
        except PreconditionFailed:
            return now + self._probe  # another caller makes the probe
        return None

    async def succeeded(self, tenant: str, url: str) -> None:
        """Record that the receiver accepted an event."""
        if self._is_trusted(tenant, url):
            return
        now = self._clock.now()
        well = await self.change(tenant, url, lambda endpoint: endpoint.succeeded(now))
        # No longer than until the next write of a success is due, which a trusted receiver skips.
        if well.last_success_at is not None and now + TRUSTED_FOR < well.last_success_at + QUIET:
            self._trusted_until[tenant, endpoint_of(url)] = now + TRUSTED_FOR

    async def failed(self, tenant: str, url: str, *, disable: str | None, scale: float) -> None:
        """Record a failure. `disable` is the reason for which the receiver gets no more events."""
        self._trusted_until.pop((tenant, endpoint_of(url)), None)
        now = self._clock.now()
        await self.change(tenant, url, lambda endpoint: endpoint.failed(now, disable=disable, scale=scale))

    def _is_trusted(self, tenant: str, url: str) -> bool:
        known, now = self._trusted_until, self._clock.now()
        if len(known) > MOST_TRUSTED:
            known.clear()
        return known.get((tenant, endpoint_of(url)), now) > now

    async def change(self, tenant: str, url: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint:
        async def write(stored: StoredEndpoint) -> Endpoint:
            changed = change(stored.record)
            return changed if changed is stored.record else await self._write(stored, changed)

        return await compare_and_swap(f"receiver {endpoint_of(url)}", lambda: self._read(tenant, url), write)

    async def on_due(self, timer: Timer) -> Timer | None:
        """Delete a receiver that was sent nothing for `FORGOTTEN_AFTER`."""
        key = keys.endpoint(timer.tenant, timer.id)
        try:
            stored = await self._objects.get(key)
        except ObjectNotFound:
            await confirm_absence(self._objects, key)  # without its timer it would be kept forever
            return None
        now = self._clock.now()
        if now < (forget_at := stored.head.last_modified + FORGOTTEN_AFTER):
            return Timer.new(forget_at, "endpoint", timer.tenant, timer.id, armed_at=now)
        await self._objects.delete(key)
        return None

    async def all(self, tenant: str) -> list[Endpoint]:
        """Return the tenant's receivers, at most 1,000."""
        page = await self._objects.list(keys.endpoints_prefix(tenant))
        found = await map_bounded(page.keys, self._found)
        return [read_as(Endpoint, stored.head.key, stored.body) for stored in found if stored is not None]

    async def _found(self, key: str) -> StoredObject | None:
        try:
            return await self._objects.get(key)
        except ObjectNotFound:  # a sweep deleted it, or no event was sent there yet
            return None

    async def _listed(self, tenant: str, at_most: int) -> set[str]:
        """Return the keys of the receivers of the last `FORGOTTEN_AFTER`, at most one more than `at_most`."""
        return set((await self._objects.list(keys.endpoints_prefix(tenant), limit=at_most + 1)).keys)

    async def _introduce(self, tenant: str, url: str) -> None:
        new = Endpoint(tenant=tenant, url=url)
        with contextlib.suppress(PreconditionFailed):  # another process was first
            await self._write(StoredEndpoint(new, None), new)

    async def _read(self, tenant: str, url: str) -> StoredEndpoint:
        try:
            stored = await self._objects.get(keys.endpoint(tenant, endpoint_of(url)))
        except ObjectNotFound:
            return StoredEndpoint(Endpoint(tenant=tenant, url=url), None)
        return StoredEndpoint(read_as(Endpoint, stored.head.key, stored.body), stored.head.etag)

    async def _write(self, stored: StoredEndpoint, record: Endpoint) -> Endpoint:
        name = endpoint_of(record.url)
        if stored.etag is None:
            now = self._clock.now()
            timer = Timer.new(now + FORGOTTEN_AFTER, "endpoint", record.tenant, name, armed_at=now)
            # The timer precedes the record, so that no record is without one.
            await self._objects.put(timer.key, b"")
        numbered = record.model_copy(update={"rev": record.rev + 1})
        written, _ = await commit(self._objects, keys.endpoint(record.tenant, name), numbered, etag=stored.etag)
        return written

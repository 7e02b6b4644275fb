"""Idempotency keys: a repeated request creates one resource, whatever response was lost.

The first request with a key claims it by a create-only write, which fixes the id of the resource. Each later request
with the key creates or finds the resource of that id, even after a crash between the claim and the creation.

An expired claim is retired by a conditional write before it is deleted. A retired claim is never taken over, so the
deletion cannot hit a newer claim. A process that was paused in between skips the delete; the next sweep retires the
claim again.
"""

import asyncio
import contextlib
import hashlib
import uuid
from dataclasses import dataclass
from datetime import timedelta

from pydantic import AwareDatetime

from storage import keys
from storage.bucket.objects import ObjectStore, confirm_absence
from storage.bucket.records import Model, read_as
from storage.clock import Clock
from storage.concurrency import both
from storage.errors import (
    IdempotencyKeyReused,
    ObjectNotFound,
    PreconditionFailed,
    StorageError,
    StorageUnavailable,
)
from storage.timers import SHARED_NONCE, Timer

KEY_LIFE = timedelta(hours=24)
"""Lifetime of a claim; afterwards the key may be used for another request."""

CLEAN_UP_AFTER = KEY_LIFE + timedelta(hours=1)

RETIREMENT = timedelta(minutes=10)
"""Time for which a retired claim is left to the sweep that retired it, which deletes it within half of this time."""

CLAIM_ATTEMPTS = 5
RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class Claim:
    """`id` is the id of the key's resource; `is_first` is true if this request claimed the key."""

    id: str
    is_first: bool


class ClaimRecord(Model):
    """What is stored of a claim. `retired_at` is set before the claim is deleted."""

    id: str
    fingerprint: str
    claimed_at: AwareDatetime
    retired_at: AwareDatetime | None = None

    def to_json(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


@dataclass(frozen=True, slots=True)
class _Found:
    record: ClaimRecord
    etag: str


class IdempotencyStore:
    """Every method raises `RecordUnreadable` for a claim that this version cannot read."""

    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock

    async def known(self, tenant: str, scope: str, key: str, fingerprint: str) -> str | None:
        """Return the id that an earlier request has claimed with this key, or None. Writes nothing.

        Raises `IdempotencyKeyReused` as `claim` does.
        """
        found = await self._find(keys.idempotency(tenant, _digest(scope, key)))
        if found is None or found.record.retired_at is not None or self._is_old(found.record):
            return None
        return _id_of(found.record, key, fingerprint)

    async def arm(self, tenant: str, scope: str, key: str) -> None:
        """Write the timer of a claim again: the process that made the claim may have died before."""
        await self._objects.put(self._timer(tenant, _digest(scope, key)).key, b"")

    async def claim(self, tenant: str, scope: str, key: str, fingerprint: str, *, mine: str | None = None) -> Claim:
        """Claim the key, or return its existing claim.

        `scope` separates the keys of different operations; `fingerprint` is a hash of the request's body; `mine` is the
        id to claim. Raises `IdempotencyKeyReused` if the key was claimed with another fingerprint.
        """
        name, mine = keys.idempotency(tenant, _digest(scope, key)), mine or str(uuid.uuid4())
        # In the same round as the claim. A process that is killed meanwhile may leave a claim without a timer, which a
        # repeat of the request writes.
        arming = asyncio.create_task(self.arm(tenant, scope, key))
        for _ in range(CLAIM_ATTEMPTS):
            body = self._body(mine, fingerprint)
            try:
                await both(self._objects.create(name, body), arming)
            except PreconditionFailed:
                await arming  # raises if the timer could not be written: the process that made the claim may be dead
                found = await self._find(name)
            except StorageError:
                # The claim may have been made without its timer.
                with contextlib.suppress(StorageError):
                    await self.arm(tenant, scope, key)
                raise
            else:
                return Claim(mine, is_first=True)
            # A sweep is deleting the claim: taken over, a retired one would be deleted with the new claim in it.
            if found is None or found.record.retired_at is not None:
                await asyncio.sleep(RETRY_S)
                continue
            if self._is_old(found.record):
                if await self._take_over(name, body, found.etag):
                    return Claim(mine, is_first=True)
                continue
            return Claim(_id_of(found.record, key, fingerprint), is_first=False)
        raise StorageUnavailable("an idempotency key changes too fast to be claimed")

    async def on_due(self, timer: Timer) -> Timer | None:
        """Delete an expired claim."""
        name = keys.idempotency(timer.tenant, timer.id)
        found = await self._find(name)
        if found is None:
            await confirm_absence(self._objects, name)  # without its timer it would be kept forever
            return None
        claim, now = found.record, self._clock.now()
        due = claim.claimed_at + CLEAN_UP_AFTER if claim.retired_at is None else claim.retired_at + RETIREMENT
        if now < due:
            return Timer.new(due, "key", timer.tenant, timer.id, armed_at=now)
        retired = claim.model_copy(update={"retired_at": now})
        await self._objects.replace(name, retired.to_json(), etag=found.etag)
        if self._clock.now() - now >= RETIREMENT / 2:
            # This process was paused: the claim may be retired again by now, and a late delete could hit a new claim.
            return Timer.new(now + RETIREMENT, "key", timer.tenant, timer.id, armed_at=now)
        await self._objects.delete(name)
        return None

    def _timer(self, tenant: str, digest: str) -> Timer:
        """Return the timer, the same for all requests of an hour, so that repeats add no objects to the bucket."""
        due = (self._clock.now() + CLEAN_UP_AFTER).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        return Timer(due, "key", tenant, digest, armed_at=due, nonce=SHARED_NONCE)

    def _body(self, made: str, fingerprint: str) -> bytes:
        return ClaimRecord(id=made, fingerprint=fingerprint, claimed_at=self._clock.now()).to_json()

    async def _find(self, name: str) -> _Found | None:
        try:
            stored = await self._objects.get(name)
        except ObjectNotFound:
            return None  # it was deleted after the create failed: claim again
        return _Found(read_as(ClaimRecord, name, stored.body), stored.head.etag)

    def _is_old(self, claim: ClaimRecord) -> bool:
        return self._clock.now() - claim.claimed_at >= KEY_LIFE

    async def _take_over(self, name: str, body: bytes, etag: str) -> bool:
        try:
            await self._objects.replace(name, body, etag=etag)
        except PreconditionFailed:
            return False
        return True


def _digest(scope: str, key: str) -> str:
    return hashlib.sha256(f"{scope}\0{key}".encode()).hexdigest()


def _id_of(claim: ClaimRecord, key: str, fingerprint: str) -> str:
    if claim.fingerprint != fingerprint:
        raise IdempotencyKeyReused(key)
    return claim.id

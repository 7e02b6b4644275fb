"""Idempotency keys: the same request twice makes one thing, whatever is lost in between.

The first request with a key claims it by a create-only write, which fixes the id of what will be made. Every later
request with the same key makes, or finds, the thing of that id: also after a crash between claim and creation.

A claim whose time is over is retired by a conditional write before it is deleted: a retired claim is never taken over,
so the deletion cannot hit a newer claim. A process that was paused in between skips the delete; the next sweep retires
the claim again.
"""

import asyncio
import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from storage import keys
from storage.bucket.objects import ObjectStore, StoredObject
from storage.clock import Clock
from storage.errors import IdempotencyKeyReused, ObjectNotFound, PreconditionFailed, StorageUnavailable
from storage.timers import Timer

KEY_LIFE = timedelta(hours=24)
"""Afterwards a key is free again."""

CLEAN_UP_AFTER = KEY_LIFE + timedelta(hours=1)

RETIREMENT = timedelta(minutes=10)
"""How long a retired claim is left to the sweep that retired it, which deletes it within half of this or not at all."""

CLAIM_ATTEMPTS = 5
RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class Claim:
    """`id` names what is made under the key; `is_first` tells who claimed it."""

    id: str
    is_first: bool


class IdempotencyStore:
    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock

    async def known(self, tenant: str, scope: str, key: str, fingerprint: str) -> str | None:
        """The id that an earlier request with this key has claimed; None without one.

        Writes the timer of a claim in the same round. `IdempotencyKeyReused` as in `claim`.
        """
        digest = _digest(scope, key)
        found, _ = await asyncio.gather(
            self._find(keys.idempotency(tenant, digest)), self._objects.put(self._timer(tenant, digest).key, b"")
        )
        if found is None or "retired_at" in json.loads(found.body) or self._is_old(found):
            return None
        return _id_of(found, key, fingerprint)

    async def claim(
        self, tenant: str, scope: str, key: str, fingerprint: str, *, mine: str | None = None, is_armed: bool = False
    ) -> Claim:
        """`IdempotencyKeyReused` if the key stands for a request of another fingerprint.

        `scope` keeps the keys of different operations apart; `fingerprint` is a hash of the request's body; `mine` is
        the id to claim the key for. `is_armed`: `known` was called before, and has written the timer.
        """
        digest, mine = _digest(scope, key), mine or str(uuid.uuid4())
        name = keys.idempotency(tenant, digest)
        if not is_armed:
            await self._objects.put(self._timer(tenant, digest).key, b"")
        for _ in range(CLAIM_ATTEMPTS):
            body = self._body(mine, fingerprint)
            try:
                await self._objects.create(name, body)
            except PreconditionFailed:
                found = await self._find(name)
            else:
                return Claim(mine, is_first=True)
            if found is None or json.loads(found.body).get("retired_at"):
                await asyncio.sleep(RETRY_S)
                continue
            if self._is_old(found):
                if await self._take_over(name, body, found):
                    return Claim(mine, is_first=True)
                continue
            return Claim(_id_of(found, key, fingerprint), is_first=False)
        raise StorageUnavailable("an idempotency key changes too fast to be claimed")

    async def on_due(self, timer: Timer) -> Timer | None:
        """Remove a claim whose time is over."""
        name = keys.idempotency(timer.tenant, timer.id)
        found = await self._find(name)
        if found is None:
            return None
        claim, now = json.loads(found.body), self._clock.now()
        due = datetime.fromisoformat(claim["claimed_at"]) + CLEAN_UP_AFTER
        if "retired_at" in claim:
            due = datetime.fromisoformat(claim["retired_at"]) + RETIREMENT
        if now < due:
            return Timer.new(due, "key", timer.tenant, timer.id, armed_at=now)
        retired = json.dumps({**claim, "retired_at": now.isoformat()}).encode()
        await self._objects.replace(name, retired, etag=found.head.etag)
        if self._clock.now() - now >= RETIREMENT / 2:
            return Timer.new(now + RETIREMENT, "key", timer.tenant, timer.id, armed_at=now)
        await self._objects.delete(name)
        return None

    def _timer(self, tenant: str, digest: str) -> Timer:
        now = self._clock.now()
        return Timer.new(now + CLEAN_UP_AFTER, "key", tenant, digest, armed_at=now)

    def _body(self, made: str, fingerprint: str) -> bytes:
        claim = {"id": made, "fingerprint": fingerprint, "claimed_at": self._clock.now().isoformat()}
        return json.dumps(claim).encode()

    async def _find(self, name: str) -> StoredObject | None:
        try:
            return await self._objects.get(name)
        except ObjectNotFound:
            return None  # it was removed in between: claim again

    def _is_old(self, found: StoredObject) -> bool:
        claimed_at = datetime.fromisoformat(json.loads(found.body)["claimed_at"])
        return self._clock.now() - claimed_at >= KEY_LIFE

    async def _take_over(self, name: str, body: bytes, found: StoredObject) -> bool:
        try:
            await self._objects.replace(name, body, etag=found.head.etag)
        except PreconditionFailed:
            return False
        return True


def _digest(scope: str, key: str) -> str:
    return hashlib.sha256(f"{scope}\0{key}".encode()).hexdigest()


def _id_of(found: StoredObject, key: str, fingerprint: str) -> str:
    claim = json.loads(found.body)
    if claim["fingerprint"] != fingerprint:
        raise IdempotencyKeyReused(key)
    made: str = claim["id"]
    return made

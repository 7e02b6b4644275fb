"""Idempotency keys: the same request twice makes one thing, whatever is lost between.

The first request with a key claims it by a create-only write, which fixes the id of what will be made. Everyone who
comes later with the same key makes, or finds, the thing of that id: also after a crash between claim and creation.

A claim that nobody can need any more is retired by a conditional write before it is deleted: nobody takes a retired
one over, so the deletion cannot hit a claim that was made anew. Only the one who retired it last deletes it, and soon:
who was held up leaves it to a later look, which retires it again.
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
from storage.hint_keys import Deadline

KEY_LIFE = timedelta(hours=24)
"""Afterwards a key is free again."""

CLEAN_UP_AFTER = KEY_LIFE + timedelta(hours=1)

RETIREMENT = timedelta(minutes=10)
"""So long a retired claim is left to the one who retired it, who deletes it within half of this or not at all."""

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

    async def claim(self, tenant: str, scope: str, key: str, fingerprint: str) -> Claim:
        """`IdempotencyKeyReused` if the key stands for a request of another fingerprint.

        `scope` keeps the keys of different operations apart; `fingerprint` is a hash of the request's body.
        """
        digest = _digest(scope, key)
        name = keys.idempotency(tenant, digest)
        await self._objects.put(Deadline(self._clock.now() + CLEAN_UP_AFTER, "key", tenant, digest).key, b"")
        for _ in range(CLAIM_ATTEMPTS):
            mine = str(uuid.uuid4())
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

    async def known(self, tenant: str, scope: str, key: str, fingerprint: str) -> str | None:
        """The id that an earlier request with this key has claimed; None without one. Claims nothing itself.

        `IdempotencyKeyReused` as in `claim`.
        """
        found = await self._find(keys.idempotency(tenant, _digest(scope, key)))
        if found is None or "retired_at" in json.loads(found.body) or self._is_old(found):
            return None
        return _id_of(found, key, fingerprint)

    async def look(self, deadline: Deadline) -> datetime | None:
        """Remove a claim whose time is over; returns when to look again. `PreconditionFailed` if it changes now."""
        name = keys.idempotency(deadline.tenant, deadline.id)
        found = await self._find(name)
        if found is None:
            return None
        claim, now = json.loads(found.body), self._clock.now()
        look_at = datetime.fromisoformat(claim["claimed_at"]) + CLEAN_UP_AFTER
        if "retired_at" in claim:
            look_at = datetime.fromisoformat(claim["retired_at"]) + RETIREMENT
        if now < look_at:
            return look_at
        retired = json.dumps({**claim, "retired_at": now.isoformat()}).encode()
        await self._objects.replace(name, retired, etag=found.head.etag)
        if self._clock.now() - now >= RETIREMENT / 2:
            return now + RETIREMENT
        await self._objects.delete(name)
        return None

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

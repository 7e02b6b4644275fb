"""Idempotency keys: the same request twice makes one thing, whatever is lost between.

The first request with a key claims it by a create-only write, which fixes the id of what will be made. Everyone who
comes later with the same key makes, or finds, the thing of that id: also after a crash between claim and creation.
"""

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from storage import keys
from storage.clock import Clock
from storage.errors import IdempotencyKeyReused, ObjectNotFound, PreconditionFailed, StorageUnavailable
from storage.objects import ObjectStore, StoredObject

KEY_LIFE = timedelta(hours=24)
"""Afterwards a key is free again."""

CLAIM_ATTEMPTS = 5


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
        name = keys.idempotency(tenant, hashlib.sha256(f"{scope}\0{key}".encode()).hexdigest())
        for _ in range(CLAIM_ATTEMPTS):
            mine = str(uuid.uuid4())
            body = self._body(mine, fingerprint)
            try:
                await self._objects.create(name, body)
            except PreconditionFailed:
                found = await self._find(name)
            else:
                return Claim(mine, is_first=True)
            if found is None:
                continue
            if self._is_old(found):
                if await self._take_over(name, body, found):
                    return Claim(mine, is_first=True)
                continue
            known = json.loads(found.body)
            if known["fingerprint"] != fingerprint:
                raise IdempotencyKeyReused(key)
            return Claim(known["id"], is_first=False)
        raise StorageUnavailable("an idempotency key changes too fast to be claimed")

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

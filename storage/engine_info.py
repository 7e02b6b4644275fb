"""What the deployed engine can do (ComfyUI's object_info), published by workers, read where jobs are accepted."""

import gzip
import hashlib
import json
from datetime import timedelta
from typing import Any

from storage import keys
from storage._cache import ShortLived
from storage.clock import Clock
from storage.errors import ObjectNotFound
from storage.objects import ObjectStore

CACHE_LIFE = timedelta(seconds=60)
ABSENT_LIFE = timedelta(seconds=2)
"""While no worker has published yet, look again soon: a fresh deployment publishes within its first minute."""


class EngineInfoStore:
    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._present: ShortLived[dict[str, Any]] = ShortLived(clock, life=CACHE_LIFE, size=16)
        self._absent: ShortLived[None] = ShortLived(clock, life=ABSENT_LIFE, size=16)

    async def publish(self, pool: str, object_info: dict[str, Any]) -> None:
        """Write it unless the very same stands there: workers of one pool all publish at their start."""
        key = keys.object_info(pool)
        body = gzip.compress(json.dumps(object_info, sort_keys=True).encode(), mtime=0)
        try:
            if (await self._objects.head(key)).etag == hashlib.md5(body, usedforsecurity=False).hexdigest():
                return
        except ObjectNotFound:
            pass
        await self._objects.put(key, body, content_type="application/gzip")

    async def load(self, pool: str) -> dict[str, Any] | None:
        """None if no worker of this pool has published yet."""
        key = keys.object_info(pool)
        if (cached := self._present.get(key)) is not None:
            return cached[0]
        if self._absent.get(key) is not None:
            return None
        try:
            stored = await self._objects.get(key)
        except ObjectNotFound:
            self._absent.put(key, None)
            return None
        info: dict[str, Any] = json.loads(gzip.decompress(stored.body))
        self._present.put(key, info)
        return info

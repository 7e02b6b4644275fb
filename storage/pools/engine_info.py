"""What the deployed engine can do (ComfyUI's object_info): published where it is known, read where jobs are accepted.

One object a pool, replaced as a whole by every publication, with the time and the ComfyUI version: the image's check at
a deployment publishes, and every worker when its engine is ready and now and then while it lives. What was published
must not refuse a valid job for ever, as a refused job starts no worker that would know better:
- Classes and choices belong to the deployment's code, and a deployment publishes. Yet a worker of the last deployment
  may publish after it. So they are believed for INFO_LIFE; then graphs are checked for their structure alone.
- The files that loaders list change under a deployment that stands. They are believed for FILES_LIFE after an engine
  that had the models mounted listed them, and `files_changed` (for whoever adds models) ends that at once.
Either way the next job is let through, and the worker that it starts publishes anew.
"""

import asyncio
import gzip
import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from storage import keys
from storage._cache import ShortLived
from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.errors import ObjectNotFound, PreconditionFailed
from workflows.catalogue import Catalogue

CACHE_LIFE = timedelta(seconds=60)
ABSENT_LIFE = timedelta(seconds=2)
"""While nobody has published yet, look again soon: a fresh deployment publishes within its first minute."""
FILES_LIFE = timedelta(hours=1)
INFO_LIFE = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """`files_listed`: the models were mounted when the engine was asked."""

    object_info: dict[str, Any]
    comfyui_version: str | None
    published_at: datetime
    files_listed: bool

    def to_bytes(self) -> bytes:
        document = {
            "comfyui_version": self.comfyui_version,
            "published_at": self.published_at.isoformat(),
            "files_listed": self.files_listed,
            "object_info": self.object_info,
        }
        return gzip.compress(json.dumps(document).encode(), mtime=0)

    @classmethod
    def from_bytes(cls, body: bytes) -> "EngineInfo":
        document = json.loads(gzip.decompress(body))
        return cls(
            object_info=document["object_info"],
            comfyui_version=document["comfyui_version"],
            published_at=datetime.fromisoformat(document["published_at"]),
            files_listed=document["files_listed"],
        )


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read, and parsed once: for as long as the object has this ETag."""

    etag: str
    info: EngineInfo
    catalogue: Catalogue


class EngineInfoStore:
    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock
        self._reads: dict[str, _Read] = {}
        self._fresh: ShortLived[bool] = ShortLived(clock, life=CACHE_LIFE, size=16)
        self._absent: ShortLived[bool] = ShortLived(clock, life=ABSENT_LIFE, size=16)

    async def publish(
        self,
        pool: str,
        object_info: dict[str, Any],
        *,
        comfyui_version: str | None = None,
        files_listed: bool = True,
    ) -> EngineInfo:
        """This is what the pool's engine can do from now on. `files_listed` is false where no models were mounted."""
        info = EngineInfo(object_info, comfyui_version, self._clock.now(), files_listed)
        body = await asyncio.to_thread(info.to_bytes)
        await self._objects.put(keys.engine_info(pool), body, content_type="application/gzip")
        return info

    async def files_changed(self, pool: str) -> None:
        """Models were added: what is published of files is no longer believed. Readers notice within CACHE_LIFE."""
        key = keys.engine_info(pool)
        try:
            stored = await self._objects.get(key)
            info = await asyncio.to_thread(EngineInfo.from_bytes, stored.body)
            body = await asyncio.to_thread(replace(info, files_listed=False).to_bytes)
            await self._objects.replace(key, body, etag=stored.head.etag, content_type="application/gzip")
        except ObjectNotFound:
            return
        except PreconditionFailed:
            await self.files_changed(pool)

    async def catalogue(self, pool: str) -> Catalogue:
        """What graphs for this pool are judged by; the parsed classes are kept for as long as nothing is published."""
        read = await self._read(pool)
        if read is None:
            return Catalogue.absent()
        age = self._clock.now() - read.info.published_at
        if age > INFO_LIFE:
            return Catalogue.absent()
        return read.catalogue.believing_files(files_are_known=read.info.files_listed and age <= FILES_LIFE)

    async def _read(self, pool: str) -> _Read | None:
        key = keys.engine_info(pool)
        if self._fresh.get(key) is not None:
            return self._reads[key]
        if self._absent.get(key) is not None:
            return None
        try:
            read = await self._read_again(key)
        except ObjectNotFound:
            self._absent.put(key, True)
            return None
        self._reads[key] = read
        self._fresh.put(key, True)
        return read

    async def _read_again(self, key: str) -> _Read:
        known = self._reads.get(key)
        if known is not None and (await self._objects.head(key)).etag == known.etag:
            return known
        stored = await self._objects.get(key)
        info = await asyncio.to_thread(EngineInfo.from_bytes, stored.body)
        return _Read(stored.head.etag, info, Catalogue(info.object_info))

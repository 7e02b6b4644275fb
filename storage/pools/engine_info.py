"""The capabilities of the deployed engine (ComfyUI's object_info), published by workers and read by the API.

There is one object per pool, with the time and the ComfyUI version. A deployment's check of its image publishes it, and
so does every worker when its engine is ready and at intervals while it runs. Outdated information must not refuse a
valid job for ever, because a refused job starts no worker that would update it:
- Classes and choices belong to the deployment's code, but a worker of the previous deployment may publish after the new
  one did. So they are valid for INFO_LIFE; then graphs are checked for their structure alone.
- The files that loaders list can change without a deployment. They are valid for FILES_LIFE after an engine with
  mounted models listed them; `files_changed`, called after models were added, ends that at once.
In both cases the next job is accepted, and the worker that it starts publishes again.
"""

import asyncio
import gzip
import json
import zlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from cachetools import TTLCache

from storage import keys
from storage.bucket.budget import background, within_budget
from storage.bucket.objects import ObjectStore
from storage.clock import Clock, expiring_cache
from storage.concurrency import retrieve
from storage.errors import EngineInfoTooLarge, ObjectNotFound, PreconditionFailed
from workflows.catalogue import Catalogue
from workflows.inventory import Model, models_of

CACHE_LIFE = timedelta(seconds=60)
ABSENT_LIFE = timedelta(seconds=2)
"""Cache lifetime of a missing object, short because a new deployment publishes within its first minute."""
FILES_LIFE = timedelta(hours=1)
INFO_LIFE = timedelta(hours=24)
MAX_INFO_BYTES = 16 * 1024**2
"""Maximum size of a pool's information as JSON. Each API process parses it once when it changes, and its event loop
waits meanwhile. Without it, graphs are checked for their structure alone."""
MAX_INFO_VALUES = 2_000_000
"""Maximum commas and opening brackets in it, since a small value takes twenty times its text in memory."""
_BETWEEN_VALUES = (b",", b"{", b"[")
_GZIP = 16 + zlib.MAX_WBITS
_TOO_LARGE = (
    f"the engine's object_info has more than {MAX_INFO_BYTES // 1024**2} MiB or {MAX_INFO_VALUES:,} values: "
    "remove node packs or model files"
)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """`files_listed`: the models were mounted when the engine listed its files."""

    object_info: dict[str, Any]
    comfyui_version: str | None
    published_at: datetime
    files_listed: bool

    def to_bytes(self) -> bytes:
        """Raises `EngineInfoTooLarge`."""
        document = {
            "comfyui_version": self.comfyui_version,
            "published_at": self.published_at.isoformat(),
            "files_listed": self.files_listed,
            "object_info": self.object_info,
        }
        text = json.dumps(document).encode()
        _check_size(text)
        return gzip.compress(text, mtime=0)

    @classmethod
    def from_bytes(cls, body: bytes) -> "EngineInfo":
        """Raises `EngineInfoTooLarge`."""
        text = zlib.decompressobj(wbits=_GZIP).decompress(body, MAX_INFO_BYTES + 1)
        _check_size(text)
        document = json.loads(text)
        return cls(
            object_info=document["object_info"],
            comfyui_version=document["comfyui_version"],
            published_at=datetime.fromisoformat(document["published_at"]),
            files_listed=document["files_listed"],
        )


@dataclass(frozen=True)
class Published:
    """The parsed object, reused while the object has this ETag."""

    etag: str
    info: EngineInfo
    catalogue: Catalogue

    @cached_property
    def class_types(self) -> tuple[str, ...]:
        """The names of the node classes in order."""
        return tuple(self.catalogue.class_types())

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """The model files that its loaders list. The first use takes up to a second for thousands of classes."""
        return models_of(self.catalogue)

    def files_are_known(self, now: datetime) -> bool:
        """Whether the files that its loaders list are current."""
        return self.info.files_listed and now - self.info.published_at <= FILES_LIFE


class EngineInfoStore:
    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock
        self._reads: dict[str, Published] = {}
        self._reading: dict[str, asyncio.Task[Published | None]] = {}
        self._fresh: TTLCache[str, None] = expiring_cache(clock, CACHE_LIFE, size=16)
        self._absent: TTLCache[str, None] = expiring_cache(clock, ABSENT_LIFE, size=16)

    async def publish(
        self,
        pool: str,
        object_info: dict[str, Any],
        *,
        comfyui_version: str | None = None,
        files_listed: bool = True,
    ) -> EngineInfo:
        """Publish the engine's capabilities. `files_listed` is false if no models were mounted.

        Raises `EngineInfoTooLarge`.
        """
        info = EngineInfo(object_info, comfyui_version, self._clock.now(), files_listed)
        body = await asyncio.to_thread(info.to_bytes)
        await self._objects.put(keys.engine_info(pool), body, content_type="application/gzip")
        return info

    async def files_changed(self, pool: str) -> None:
        """Invalidate the published file lists after models were added. Readers notice within CACHE_LIFE."""
        key = keys.engine_info(pool)
        try:
            stored = await self._objects.get(key)
            info = await asyncio.to_thread(EngineInfo.from_bytes, stored.body)
            body = await asyncio.to_thread(replace(info, files_listed=False).to_bytes)
            await self._objects.replace(key, body, etag=stored.head.etag, content_type="application/gzip")
        except (ObjectNotFound, EngineInfoTooLarge):
            return
        except PreconditionFailed:  # a worker has published meanwhile, perhaps with the old lists
            await self.files_changed(pool)

    async def catalogue(self, pool: str) -> Catalogue:
        """Return the catalogue that graphs for this pool are checked against."""
        published, now = await self.published(pool), self._clock.now()
        if published is None or now - published.info.published_at > INFO_LIFE:
            return Catalogue.absent()
        return published.catalogue.believing_files(files_are_known=published.files_are_known(now))

    async def published(self, pool: str) -> Published | None:
        key = keys.engine_info(pool)
        if key in self._fresh:
            return self._reads[key]
        if key in self._absent:
            return None
        reading = self._reading.get(key)
        if reading is None:
            # One reading for all requests in flight: each would parse the object, which takes a megabyte 0.2 s. It
            # outlives the request that began it.
            reading = self._reading[key] = background(self._refreshed(key))
            reading.add_done_callback(lambda _: self._reading.pop(key))
            reading.add_done_callback(retrieve)
        async with within_budget(key):
            # Shielded: a request that ends early cancels its own wait, not the reading that others share.
            return await asyncio.shield(reading)

    async def _refreshed(self, key: str) -> Published | None:
        try:
            read = await self._read_again(key)
        except (ObjectNotFound, EngineInfoTooLarge):
            self._absent[key] = None
            return None
        self._reads[key] = read
        self._fresh[key] = None
        return read

    async def _read_again(self, key: str) -> Published:
        known = self._reads.get(key)
        # A HEAD instead of a GET, since object_info has a megabyte and seldom changes.
        if known is not None and (await self._objects.head(key)).etag == known.etag:
            return known
        stored = await self._objects.get(key)
        return await asyncio.to_thread(_parsed, stored.head.etag, stored.body)


def _check_size(text: bytes) -> None:
    """Raises `EngineInfoTooLarge`."""
    if len(text) > MAX_INFO_BYTES or sum(map(text.count, _BETWEEN_VALUES)) > MAX_INFO_VALUES:
        raise EngineInfoTooLarge(_TOO_LARGE)


def _parsed(etag: str, body: bytes) -> Published:
    info = EngineInfo.from_bytes(body)
    return Published(etag, info, Catalogue(info.object_info))

"""The capabilities of the deployed engine (ComfyUI's object_info), published by workers and read by the API.

There is one object per pool, with the time and the ComfyUI version. A deployment's check of its image publishes it, and
so does every worker when its engine is ready and at intervals while it runs. Outdated information must not refuse a
valid job for ever, because a refused job starts no worker that would update it:
- Classes and choices belong to the deployment's code, but a worker of the previous deployment may publish after the new
  one did. So they are valid for INFO_LIFE; then graphs are checked for their structure alone.
- The files that loaders list can change without a deployment. They are valid for FILES_LIFE after an engine with
  mounted models listed them; `files_changed`, called after models were added, ends that at once.
In both cases the next job is accepted, and the worker that it starts publishes again.

An object that cannot be read counts as absent, for the same reason; a running worker replaces it.
"""

import asyncio
import gzip
import json
import logging
import zlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from cachetools import TTLCache
from pydantic import AwareDatetime, TypeAdapter

from storage import keys
from storage.bucket.budget import background, within_budget
from storage.bucket.objects import ObjectHead, ObjectStore
from storage.clock import Clock, expiring_cache
from storage.concurrency import retrieve
from storage.errors import EngineInfoTooLarge, ObjectNotFound, PreconditionFailed, RecordUnreadable
from workflows.catalogue import Catalogue
from workflows.inventory import Model, models_of

logger = logging.getLogger(__name__)

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
    published_at: AwareDatetime
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
        """Raises `RecordUnreadable`."""
        try:
            text = zlib.decompressobj(wbits=_GZIP).decompress(body, MAX_INFO_BYTES + 1)
            _check_size(text)
            return _INFO.validate_python(json.loads(text))
        except (zlib.error, ValueError, RecursionError, EngineInfoTooLarge) as error:  # pydantic's is a ValueError
            raise RecordUnreadable(
                f"the engine's information cannot be read ({type(error).__module__}.{type(error).__name__})"
            ) from None


_INFO = TypeAdapter(EngineInfo)


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
        self._unreadable: dict[str, str] = {}
        """The ETags of objects that could not be read, which are not fetched again."""
        self._published: dict[str, str] = {}
        """The ETags of objects that `publish` wrote and `is_published` could read."""
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
        key = keys.engine_info(pool)
        self._published[key] = await self._objects.put(key, body, content_type="application/gzip")
        return info

    async def is_published(self, pool: str) -> bool:
        """Whether the pool's object can be read. It is fetched only if another process has written it."""
        key = keys.engine_info(pool)
        try:
            if (await self._objects.head(key)).etag == self._published.get(key):
                return True
            stored = await self._objects.get(key)
            await asyncio.to_thread(EngineInfo.from_bytes, stored.body)
        except (ObjectNotFound, RecordUnreadable) as error:
            logger.warning("%s is missing or damaged and is published again: %s", key, error)
            return False
        self._published[key] = stored.head.etag
        return True

    async def files_changed(self, pool: str) -> None:
        """Invalidate the published file lists after models were added. Readers notice within CACHE_LIFE."""
        key = keys.engine_info(pool)
        try:
            stored = await self._objects.get(key)
            info = await asyncio.to_thread(EngineInfo.from_bytes, stored.body)
            body = await asyncio.to_thread(replace(info, files_listed=False).to_bytes)
            await self._objects.replace(key, body, etag=stored.head.etag, content_type="application/gzip")
        except (ObjectNotFound, EngineInfoTooLarge, RecordUnreadable):
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
        except ObjectNotFound:
            read = None
        if read is None:
            self._absent[key] = None
            return None
        self._reads[key] = read
        self._fresh[key] = None
        return read

    async def _read_again(self, key: str) -> Published | None:
        """Return the object, or the last version that could be read. Raises `ObjectNotFound`."""
        known, unreadable = self._reads.get(key), self._unreadable.get(key)
        # A HEAD instead of a GET, since object_info has a megabyte and seldom changes.
        if known is not None or unreadable is not None:
            etag = (await self._objects.head(key)).etag
            if etag == unreadable or (known is not None and etag == known.etag):
                return known
        stored = await self._objects.get(key)
        try:
            return await asyncio.to_thread(_parsed, stored.head, stored.body)
        except RecordUnreadable as error:
            logger.warning("%s is damaged; until a worker publishes again, it counts as absent: %s", key, error)
            self._unreadable[key] = stored.head.etag
            return known


def _check_size(text: bytes) -> None:
    """Raises `EngineInfoTooLarge`."""
    if len(text) > MAX_INFO_BYTES or sum(map(text.count, _BETWEEN_VALUES)) > MAX_INFO_VALUES:
        raise EngineInfoTooLarge(_TOO_LARGE)


def _parsed(head: ObjectHead, body: bytes) -> Published:
    info = EngineInfo.from_bytes(body)
    return Published(head.etag, info, Catalogue(info.object_info))

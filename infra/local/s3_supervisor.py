"""Supervision of the embedded S3 server: it restarts when it ends or cannot write.

SeaweedFS does not recover from a full disk by itself. It keeps its metadata in several LevelDB databases, chosen by
the folder of a key, and a database whose journal could not be written refuses every later write until it is reopened.
A restart takes two seconds and loses no acknowledged write.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

from infra.local.s3_server import LocalS3Server, S3ServerFailed
from storage import keys
from storage.bucket.disk import BucketDisk
from storage.bucket.s3 import S3ObjectStore
from storage.concurrency import in_background
from storage.errors import StorageError

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.1
PROBE_INTERVAL_S = 2.0
PROBE_TIMEOUT_S = 10.0
PROBE_FOLDERS = 16
"""Probes rotate over this many folders, so that every database is tried within half a minute."""
FAILED_PROBES = 3
"""Failed writes of one key in a row before a restart. A single write may fail for other reasons."""
RESTART_PAUSE_S = 30.0
"""Time between restarts for failed probes, so that a server which a restart does not help still answers reads."""


@contextlib.asynccontextmanager
async def supervised(server: LocalS3Server | None, disk: BucketDisk | None) -> AsyncIterator[None]:
    """Supervise the server in background tasks until the block ends. Without a server, do nothing."""
    if server is None or disk is None:
        yield
        return
    supervisor = _Supervisor(server, disk)
    async with in_background(supervisor.keep_alive(), supervisor.keep_writable()):
        yield


class _Supervisor:
    def __init__(self, server: LocalS3Server, disk: BucketDisk) -> None:
        self._server = server
        self._disk = disk
        self._was_exhausted = False
        self._starting = asyncio.Lock()

    async def keep_alive(self) -> None:
        """Restart the server when it has ended, and when its disk has space again after being full."""
        while True:
            if not self._server.is_alive():
                await self._restart("it ended")
            elif self._is_over_full_disk():
                await self._restart("there is free space again")
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def keep_writable(self) -> None:
        """Restart the server when probe writes fail for a reason that `keep_alive` cannot see."""
        # The disk may have been full for a moment between two checks of `keep_alive`.
        objects = S3ObjectStore(replace(self._server.config(), attempts=1, read_timeout_s=PROBE_TIMEOUT_S))
        try:
            for number in itertools.cycle(range(PROBE_FOLDERS)):
                await asyncio.sleep(PROBE_INTERVAL_S)
                if not await self._can_write(objects, keys.write_probe(number)):
                    await self._restart("it refuses writes, and its disk has space")
                    await asyncio.sleep(RESTART_PAUSE_S)
        finally:
            await objects.close()

    def _is_over_full_disk(self) -> bool:
        # Remembered until the restart, because the server refuses writes although space was freed.
        self._was_exhausted = self._was_exhausted or self._disk.is_exhausted()
        return self._was_exhausted and not self._disk.missing_bytes()

    async def _can_write(self, objects: S3ObjectStore, key: str) -> bool:
        """Return whether a write succeeds, or fails for a reason that `keep_alive` handles."""
        pid = self._server.pid
        for _ in range(FAILED_PROBES):
            try:
                await objects.put(key, b"probe", content_type="text/plain")
            except StorageError:
                await asyncio.sleep(PROBE_INTERVAL_S)
            else:
                return True
            # A server that is down or restarting, or a full disk, is handled by the other task.
            if self._server.pid != pid or self._starting.locked() or self._was_exhausted or self._disk.missing_bytes():
                return True
        return False

    async def _restart(self, reason: str) -> None:
        async with self._starting:  # both tasks may call it
            logger.warning("restarting the S3 server: %s", reason)
            self._was_exhausted = False
            try:
                await self._server.stop()
                await self._server.start()
            except (S3ServerFailed, OSError) as error:  # OSError: the disk is full
                logger.warning("%s", error)

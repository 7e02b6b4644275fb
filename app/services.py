"""The services of the HTTP API. A composition root builds them, never a route."""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from app.config import ApiConfig
from app.findings import Examine
from storage.bucket.disk import BucketDisk
from storage.concurrency import map_bounded
from storage.intake.fetch import FetchPlaces, Meter
from storage.intake.media_check import MediaCheck
from storage.launcher import Launcher
from storage.stores import Stores
from storage.tickets import Tickets
from storage.webhooks.receivers import ReceiverRules
from workflows.manifest import NamedWorkflow


class Fetcher(Protocol):
    """Downloads the bytes behind a URL to a file; see `storage.intake.fetch`."""

    async def fetch(self, url: str, path: Path, *, meter: Meter, max_bytes: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Services:
    config: ApiConfig
    stores: Stores
    launcher: Launcher
    fetcher: Fetcher
    media_check: MediaCheck
    receivers: ReceiverRules
    fetch_places: FetchPlaces = field(default_factory=FetchPlaces)
    workflows: Mapping[str, NamedWorkflow] = field(default_factory=dict)
    """The workflows that can be run by name."""
    disk: BucketDisk | None = None
    """The disk of a bucket on this machine; None for any other bucket."""
    examine_bucket: Examine | None = None
    """The checks of the bucket that `comfyui-modal doctor` makes."""

    @property
    def tickets(self) -> Tickets:
        return Tickets(self.launcher, self.stores.objects)

    async def withdraw_tickets(self, *pools: str, ended: Collection[str]) -> None:
        """Withdraw the tickets that no queued job needs any more, now that the jobs `ended` were cancelled."""
        with suppress(TimeoutError):  # a surplus ticket starts a container that finds nothing
            async with asyncio.timeout(self.config.spawn_wait_s):
                await map_bounded(pools, lambda pool: self.tickets.try_to_trim(pool, ended))

    def check_disk(self) -> None:
        """Raise `DiskAlmostFull` if the bucket's disk has no room for new data."""
        if self.disk is not None:
            self.disk.check()

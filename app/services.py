"""What the HTTP face works with. Put together by a composition root, never by a route."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from storage.bucket.disk import BucketDisk
from storage.intake.media_check import MediaCheck
from storage.intake.remote import Fetched, FetchPlaces, Meter
from storage.launcher import Launcher
from storage.stores import Stores
from storage.webhooks.receivers import ReceiverRules
from workflows.manifest import NamedWorkflow


class Fetcher(Protocol):
    """Brings the bytes behind a URL to a file; see `storage.intake.remote`."""

    async def fetch(self, url: str, path: Path, *, meter: Meter, max_bytes: int) -> Fetched: ...


@dataclass(frozen=True, slots=True)
class Services:
    stores: Stores
    launcher: Launcher
    fetcher: Fetcher
    media_check: MediaCheck
    receivers: ReceiverRules
    fetch_places: FetchPlaces = field(default_factory=FetchPlaces)
    workflows: Mapping[str, NamedWorkflow] = field(default_factory=dict)
    """Those that may be called by name."""
    disk: BucketDisk | None = None
    """Of a bucket on this machine; None for any other."""

    def check_disk(self) -> None:
        """`DiskAlmostFull` where nothing new may be taken in."""
        if self.disk is not None:
            self.disk.check()

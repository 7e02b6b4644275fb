"""The free space of the disk that holds the bucket, where the bucket's server runs on this machine."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from storage.errors import DiskAlmostFull

SERVER_RESERVE = 0.01
"""SeaweedFS makes all its volumes read-only while less than this part of the disk is free; it cannot be set."""


@dataclass(frozen=True, slots=True)
class BucketDisk:
    """`folder` lies on it. `min_free_bytes` come on top of what the server reserves."""

    folder: Path
    min_free_bytes: int

    def missing_bytes(self) -> int:
        """How much must be freed before new jobs are taken; 0 if there is space."""
        usage = shutil.disk_usage(self.folder)
        return max(0, int(usage.total * SERVER_RESERVE) + self.min_free_bytes - usage.free)

    def is_exhausted(self) -> bool:
        """Whether the server can write no more."""
        usage = shutil.disk_usage(self.folder)
        return usage.free <= usage.total * SERVER_RESERVE

    def check(self) -> None:
        """Raises `DiskAlmostFull` where new data must not be taken in."""
        if missing := self.missing_bytes():
            raise DiskAlmostFull(missing)

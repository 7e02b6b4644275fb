"""The free space of the bucket's disk, if the bucket's server runs on this machine."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from storage.errors import DiskAlmostFull

SERVER_RESERVE = 0.01
"""SeaweedFS makes all its volumes read-only below this free fraction of the disk; it cannot be configured."""


@dataclass(frozen=True, slots=True)
class BucketDisk:
    """`folder` is on the disk. `min_free_bytes` are in addition to the server's reserve."""

    folder: Path
    min_free_bytes: int

    def missing_bytes(self) -> int:
        """Return how many bytes must be freed before new jobs are accepted; 0 if there is space."""
        usage = shutil.disk_usage(self.folder)
        return max(0, int(usage.total * SERVER_RESERVE) + self.min_free_bytes - usage.free)

    def is_exhausted(self) -> bool:
        """Whether the server can no longer write."""
        usage = shutil.disk_usage(self.folder)
        return usage.free <= usage.total * SERVER_RESERVE

    def check(self) -> None:
        """Raise `DiskAlmostFull` if new data must not be accepted."""
        if missing := self.missing_bytes():
            raise DiskAlmostFull(missing)

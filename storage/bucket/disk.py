"""Full disks: that of the bucket, if its server runs on this machine, and those of local files."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.errors import DiskAlmostFull, LocalDiskFull

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


def is_full(error: OSError) -> bool:
    """Whether a write failed because the disk is full, or a quota of the disk is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def local_writes(display_key: str) -> Iterator[None]:
    """Convert a full local disk into `LocalDiskFull`, so that the bucket is not blamed."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise LocalDiskFull(f"{display_key}: {error.strerror}") from error

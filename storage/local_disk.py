"""Failed writes to a disk of this machine, such as that of temporary files."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from storage.errors import LocalDiskFull


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

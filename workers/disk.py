"""The disk of a worker's own folders: whether it has room for another job, and what a failed write to it means.

A worker with a full disk must claim nothing: it would fail every job of the queue within seconds, while other workers
could run them.
"""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from storage.errors import LocalDiskFull
from storage.local_disk import is_full
from workers.comfy.engine import EngineFiles
from workers.errors import WorkerDiskFull

PROBE_BYTES = 64 * 1024
"""What is written to find out whether a disk that refused a write takes writes again."""


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Convert the failure of a write of `what` to a full disk, or beyond a disk quota, into `WorkerDiskFull`."""
    try:
        yield
    except (LocalDiskFull, OSError) as error:
        if isinstance(error, OSError) and not is_full(error):
            raise
        raise WorkerDiskFull(f"{what} could not be written: this worker's disk is full") from error


class WorkerDisk:
    """Whether the disk has room for another job. `min_free_bytes` must be free before one is claimed."""

    def __init__(self, min_free_bytes: int) -> None:
        self._min_free_bytes = min_free_bytes
        self._has_refused = False

    def note_refusal(self) -> None:
        """Remember that a write has failed: a quota, or a lack of inodes, does not show in the free space."""
        self._has_refused = True

    async def shortage(self, files: EngineFiles) -> WorkerDiskFull | None:
        """Return why no job may be claimed; None if there is room for one."""
        if files.free_bytes() < self._min_free_bytes:
            return WorkerDiskFull(
                f"this worker's disk is full: less than {self._min_free_bytes} bytes are free; it claims no job until "
                "there is space (COMFYUI_MODAL_MIN_FREE_BYTES)"
            )
        if self._has_refused:
            try:
                await asyncio.to_thread(_write, files)
            except WorkerDiskFull as refusal:
                return refusal
            self._has_refused = False
        return None


def _write(files: EngineFiles) -> None:
    folder = files.private_folder()
    try:
        with writing("a file"):
            (folder / "probe").write_bytes(bytes(PROBE_BYTES))
    finally:
        shutil.rmtree(folder, ignore_errors=True)

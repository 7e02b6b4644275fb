"""Rotation of the logs of `up`'s processes: a log larger than `MAX_BYTES` moves to `NAME.log.1`.

A log is copied and truncated in place, never renamed, because its writer keeps the file open, native code included,
and cannot be made to reopen it. This works because every log is opened for appending, so that the next line
is written at the new end. Lines that are written between the copy's last read and the truncation are lost.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

MAX_BYTES = 20 * 1024 * 1024
"""The size limit of a log, and of its older part. Between two checks a log may exceed it."""
CHECK_INTERVAL_S = 2.0
PIECE_BYTES = 1024 * 1024


async def keep_bounded(folders: Sequence[Path]) -> None:
    """Rotate the logs in `folders`, including logs that appear later, until cancelled."""
    while True:
        await asyncio.to_thread(bound_logs, folders)
        await asyncio.sleep(CHECK_INTERVAL_S)


def bound_logs(folders: Sequence[Path], max_bytes: int = MAX_BYTES) -> None:
    """Truncate each log that is larger than `max_bytes`. Its newest `max_bytes` become `NAME.1`."""
    for log in (path for folder in folders for pattern in ("*.log", "*.out") for path in folder.glob(pattern)):
        try:
            if log.stat().st_size > max_bytes:
                _cut(log, max_bytes)
        except OSError as error:
            logger.warning("%s cannot be cut: %s", log, error)


def end_of(log: Path, size: int) -> str:
    """Return the last `size` bytes of a log, across its last rotation."""
    newest = _tail(log, size)
    older = _older(log)
    if len(newest) < size and older.exists():
        newest = _tail(older, size - len(newest)) + newest
    return newest.decode(errors="replace")


def _cut(log: Path, max_bytes: int) -> None:
    with log.open("r+b") as file:
        # On a full disk free space matters more than old lines, so the log is truncated even if its copy fails.
        with contextlib.suppress(OSError):
            file.seek(-max_bytes, os.SEEK_END)
            with _older(log).open("wb") as kept:
                left = max_bytes  # its writer may go on faster than it is read
                while left and (piece := file.read(min(PIECE_BYTES, left))):
                    kept.write(piece)
                    left -= len(piece)
        file.truncate(0)


def _tail(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read(size)


def _older(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")

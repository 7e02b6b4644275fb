"""Counts a failed start if the container dies while it prepares its engine for a snapshot.

It runs as a child of the container's process: `python -I comfyui_modal.py infra.on_modal.watched_snapshot POOL`.
A separate process is needed because a snapshot must not contain open connections, and the bucket's clients keep theirs
until their process ends. It ends before the snapshot is taken: with success after a line on standard input, with a
failure after end-of-file, which follows when the container's process was killed.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import comfyui_modal
from infra.compose.stores import open_stores
from infra.logs import configure_logging
from infra.settings import Settings
from storage.signal import MemorySignal
from workers.starts import CountedStarts

END_S = 10.0
"""Time for the child to withdraw the start that it has counted."""


class Died(Exception):
    """The container's process has died."""


@asynccontextmanager
async def watched_snapshot(pool: str) -> AsyncIterator[None]:
    """Run the counting process while the engine starts for a snapshot."""
    process = await asyncio.create_subprocess_exec(
        *comfyui_modal.command(watched_snapshot.__module__, pool), stdin=subprocess.PIPE, env=os.environ
    )
    try:
        yield
    finally:
        # A bucket that hangs must not keep the container from its snapshot, hence the timeout and the kill.
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(END_S):
                await process.communicate(b"survived\n")
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _watch(settings: Settings, pool: str) -> None:
    name = os.environ.get("MODAL_TASK_ID", settings.process_name)
    async with open_stores(settings, MemorySignal()) as stores:
        starts = CountedStarts(stores.engine_starts, pool, name, str)
        with contextlib.suppress(Died):
            async with starts.watched():
                if not await asyncio.to_thread(sys.stdin.readline):  # end-of-file: nothing was written before the kill
                    raise Died


if __name__ == "__main__":
    read = Settings()
    configure_logging("snapshot", read.log_level, read.secret_values())
    asyncio.run(_watch(read, sys.argv[1]))

"""Counts a container that does not survive the start of its engine for a snapshot: `python -I comfyui_modal.py
infra.on_modal.watched_snapshot POOL`, beside the container's own process.

A process of its own, because a snapshot must not hold a connection: the bucket's clients keep theirs open for as long
as their process lives. It ends before the snapshot is taken. Standard input tells it how: a line when all went well,
and its end without one when the container's process was killed.
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
"""How long it may take to withdraw what it has counted."""


class Died(Exception):
    """The container's process is gone."""


@asynccontextmanager
async def watched_snapshot(pool: str) -> AsyncIterator[None]:
    """While the engine starts for a snapshot."""
    process = await asyncio.create_subprocess_exec(
        *comfyui_modal.command(watched_snapshot.__module__, pool), stdin=subprocess.PIPE, env=os.environ
    )
    try:
        yield
    finally:
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
                if not await asyncio.to_thread(sys.stdin.readline):
                    raise Died


if __name__ == "__main__":
    read = Settings()
    configure_logging("snapshot", read.log_level, read.secret_values())
    asyncio.run(_watch(read, sys.argv[1]))

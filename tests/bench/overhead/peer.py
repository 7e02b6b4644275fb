"""A peer's server as a separate process, whose log is shown if it does not become ready."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

READY_WITHIN_S = 60.0
STOPS_WITHIN_S = 10.0


@asynccontextmanager
async def peer_process(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], *, ready: str, session: aiohttp.ClientSession
) -> AsyncIterator[None]:
    """Start the server and wait until `ready` answers 200. Of this process's environment it gets only PATH."""
    log = folder / "peer.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await _until_ready(ready, process, log, session)
        yield
    finally:
        await _stop(process)


async def _until_ready(
    url: str, process: asyncio.subprocess.Process, log: Path, session: aiohttp.ClientSession
) -> None:
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            while process.returncode is None:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    raise AssertionError(log.read_text(errors="replace")[-4000:])


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOPS_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

"""Output files that code in the engine changes while they are checked, hashed and uploaded."""

import asyncio
import contextlib
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.jobs.record import JobRecord, Status
from tests.support.scripted_comfy import Play
from tests.support.stage import Stage, paint, painted, stage
from tests.support.waiting import until
from workers.outputs.uploads import UploadPolicy

pytestmark = pytest.mark.anyio

ENDLESS = 1 << 42
"""Bytes of a file of holes, which takes no space and an hour to read."""
CHANGED = (
    "a.txt was changed while it was stored: it had 5 bytes after its node had reported it, and has another size now. "
    "A node must write a file completely before it reports it"
)


async def run(on: Stage) -> JobRecord:
    return (await on.run(await on.claimed())).stored.record


@pytest.mark.parametrize("size", [4, 6, ENDLESS], ids=["shorter", "longer", "endless"])
async def test_an_output_that_changes_during_its_upload_fails(tmp_path: Path, size: int) -> None:
    """A job fails if one of its outputs has another size after its upload, of which only the checked size is read."""

    async def script(play: Play) -> None:
        outputs = await paint(play, tmp_path)
        await on.objects.entered.wait()
        os.truncate(tmp_path / "output" / "a.txt", size)
        on.objects.held["upload_file"].set()
        await play.succeed(outputs)

    async with stage(tmp_path, script) as on:
        on.objects.held["upload_file"] = asyncio.Event()
        ended = await run(on)
    assert ended.error_detail is not None
    assert (ended.status, ended.error_detail.code, ended.error) == (Status.FAILED, "output_failed", CHANGED)


async def test_an_output_that_grows_once_it_is_taken_fails(tmp_path: Path) -> None:
    """An output that grows as soon as the worker has a link to it fails its job at once."""
    output, over = tmp_path / "output" / "a.mp4", threading.Event()

    def grow() -> None:
        while output.stat().st_nlink < 2 and not over.is_set():
            pass
        os.truncate(output, ENDLESS)

    async def script(play: Play) -> None:
        ui = painted(tmp_path, "a.mp4")
        output.write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))  # is measured before it is hashed
        growing = asyncio.create_task(asyncio.to_thread(grow))
        await play.say("executed", node="1", display_node="1", output=ui)
        await growing
        await play.succeed({"1": ui})

    async with stage(tmp_path, script) as on:
        try:
            ended = await run(on)
        finally:
            over.set()
    assert ended.error_detail is not None
    assert (ended.status, ended.error_detail.code) == (Status.FAILED, "output_failed")


async def test_no_thread_reads_an_output_after_its_job(tmp_path: Path) -> None:
    """After the timeout of a job no thread reads its outputs any more."""

    async def script(play: Play) -> None:
        ui: dict[str, Any] = painted(tmp_path)
        os.truncate(tmp_path / "output" / "a.txt", ENDLESS)
        await play.say("executed", node="1", display_node="1", output=ui)
        await play.until_interrupted()

    async with stage(tmp_path, script) as on:
        on.policy = replace(on.policy, uploads=UploadPolicy(max_output_bytes=2 * ENDLESS), last_uploads_s=0.1)
        ended = (await on.run(await on.claimed(timeout_s=1))).stored.record
        assert ended.status is Status.FAILED
        await until(lambda: not opened_below(tmp_path))


def opened_below(folder: Path) -> list[Path]:
    """Return the files below a folder that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(descriptor.readlink())
    return [path for path in found if path.is_relative_to(folder)]

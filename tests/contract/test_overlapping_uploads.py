"""Outputs are uploaded several at once, and while they are hashed."""

import asyncio
import sys
import threading
import time
from pathlib import Path

import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.clock import SystemClock
from storage.errors import StorageRefused
from tests.support.records import a_job
from tests.support.workbench import workbench
from workers.outputs.media import sha256_of
from workers.outputs.uploads import OutputUploads, UploadPolicy
from workflows.messages import Executed

pytestmark = pytest.mark.anyio

SIZE = 512 * 1024**2
"""Bytes of the large file, a hole that takes no disk space and whose hash takes half a second or longer."""
FILES = 10
LIMIT_S = 5


class WatchedStore(MemoryObjectStore):
    """A store that stores no file, and records what happens at the same time as an upload."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.during_a_hash = False
        self.running = 0
        self.is_full = asyncio.Event()

    async def upload_file(self, key: str, path: Path, *, content_type: str, size: int | None = None) -> None:
        self.running += 1
        if self.running == UploadPolicy().parallel:
            self.is_full.set()
        if size == SIZE:
            self.during_a_hash = await asyncio.to_thread(_comes_to_hashing)
        else:
            await asyncio.wait_for(self.is_full.wait(), LIMIT_S)
        self.running -= 1


class RefusingStore(MemoryObjectStore):
    """Refuses the first two uploads of files, as a bucket whose quota is reached."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.refusals = 2

    async def upload_file(self, key: str, path: Path, *, content_type: str, size: int | None = None) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StorageRefused("the bucket refuses this client: QuotaExceeded")
        await super().upload_file(key, path, content_type=content_type, size=size)


def _comes_to_hashing() -> bool:
    """Returns whether a thread computes a hash of a file soon."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if _is_hashing():
            return True
    return False


def _is_hashing() -> bool:
    frames = [sys._current_frames().get(thread.ident or 0) for thread in threading.enumerate()]
    for top in frames:
        frame = top
        while frame is not None:
            if frame.f_code is sha256_of.__code__:
                return True
            frame = frame.f_back
    return False


async def _upload(folder: Path, store: MemoryObjectStore, files: dict[str, int]) -> int:
    """Uploads sparse files of these sizes, and returns the number of outputs."""
    async with workbench(folder) as bench:
        uploads = OutputUploads(bench.host.engine, store, a_job(attempt=1), UploadPolicy())
        for name, size in files.items():
            path = folder / "output" / name
            path.touch()
            with path.open("r+b") as file:
                file.truncate(size)
            entry = {"filename": name, "subfolder": "", "type": "output"}
            await uploads.add(Executed("prompt", name, name, {"files": [entry]}))
        return len(await uploads.all())


async def test_a_large_file_is_uploaded_while_it_is_hashed(tmp_path: Path) -> None:
    """The upload of a large file does not wait for its hash."""
    store = WatchedStore()
    assert await _upload(tmp_path, store, {"large.bin": SIZE}) == 1
    assert store.during_a_hash


async def test_several_outputs_are_uploaded_at_once(tmp_path: Path) -> None:
    """Eight outputs are uploaded at once, so that a bucket that takes long to answer does not slow them down."""
    store = WatchedStore()
    assert await _upload(tmp_path, store, {f"{number}.bin": 10 for number in range(FILES)}) == FILES
    assert UploadPolicy().parallel == 8


async def test_a_refused_upload_is_repeated(tmp_path: Path) -> None:
    """A short refusal by the bucket uses up no attempt of a job that has run."""
    store = RefusingStore()
    assert await _upload(tmp_path, store, {"a.bin": 10}) == 1
    assert (store.refusals, len(store.contents())) == (0, 1)

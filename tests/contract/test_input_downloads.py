"""A worker waits for a bucket that does not give a job's input files."""

from pathlib import Path

import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.errors import StorageError, StorageRefused, StorageUnavailable
from storage.intake.media_check import MediaCheck, MediaLimits
from storage.jobs.models import InputFile
from tests.support.api_server import PNG
from workers.preparation import fetch_inputs

pytestmark = pytest.mark.anyio


class Faulty(MemoryObjectStore):
    """Answers the first downloads with these faults: an error, or other bytes."""

    def __init__(self, clock: ManualClock, *faults: bytes | StorageError) -> None:
        super().__init__(clock)
        self._faults = list(faults)

    async def download_file(self, key: str, path: Path) -> None:
        if not self._faults:
            await super().download_file(key, path)
        elif isinstance(fault := self._faults.pop(0), StorageError):
            raise fault
        else:
            path.write_bytes(fault)


@pytest.mark.parametrize(
    "faults",
    [(StorageUnavailable("500"),) * 2, (StorageRefused("403"),) * 2, (b"<html>", PNG[:20])],
    ids=["no answer", "a short refusal", "an answer of something else, and half of one"],
)
async def test_a_download_is_repeated(
    clock: ManualClock, tmp_path: Path, faults: tuple[bytes | StorageError, ...]
) -> None:
    """Neither a failed download nor one of another size uses up an attempt or makes the file a broken one."""
    objects = Faulty(clock, *faults)
    await objects.put("a", PNG)
    file = InputFile(name="a.png", key="a", size_bytes=len(PNG), content_type="image/png")
    ((_, path),) = await fetch_inputs((file,), objects, tmp_path, MediaCheck(), MediaLimits())
    assert path.read_bytes() == PNG


async def test_a_lasting_refusal_is_raised(clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that the bucket refuses for longer than a worker waits fails with the refusal."""
    monkeypatch.setattr("storage.bucket.records.RETRY_FOR_S", 1e-9)
    objects = Faulty(clock, *[StorageRefused("the bucket refuses this client: AccessDenied")] * 100)
    file = InputFile(name="a.png", key="a", size_bytes=len(PNG), content_type="image/png")
    with pytest.raises(StorageRefused, match="AccessDenied"):
        await fetch_inputs((file,), objects, tmp_path, MediaCheck(), MediaLimits())

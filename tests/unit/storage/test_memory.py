"""The in-memory store refuses keys that some S3 server would mishandle."""

import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.clock import SystemClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def objects() -> MemoryObjectStore:
    return MemoryObjectStore(SystemClock())


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "a/./b", "a/../b", "a\\b", "x" * 256, "ü" * 128])
async def test_an_unsafe_key_is_refused(objects: MemoryObjectStore, key: str) -> None:
    """Both `put` and `create` refuse an unsafe key."""
    for write in (objects.put(key, b""), objects.create(key, b"")):
        with pytest.raises(ValueError, match="not a safe key"):
            await write
    assert objects.keys() == ()


async def test_no_key_is_anothers_folder(objects: MemoryObjectStore) -> None:
    """A key above or below an existing key is refused until that key is deleted."""
    await objects.put("jobs/1/job.json", b"")
    await objects.put("jobs/1/job.json", b"again")
    for key in ("jobs", "jobs/1", "jobs/1/job.json/x"):
        with pytest.raises(ValueError, match="another's folder"):
            await objects.put(key, b"")
    await objects.put("jobs/10", b"")
    await objects.delete("jobs/1/job.json", "missing")
    await objects.put("jobs/1", b"")
    assert objects.keys() == ("jobs/1", "jobs/10")

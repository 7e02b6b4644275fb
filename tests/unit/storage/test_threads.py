"""The threads that blocking calls to the bucket run on."""

import pytest

from storage.bucket._threads import Threads
from storage.errors import StorageUnavailable

pytestmark = pytest.mark.anyio


async def test_a_call_after_the_end_is_a_failure_of_storage() -> None:
    """Work in the background that begins late finds the error that it expects of a bucket."""
    threads = Threads(1)
    assert await threads.run(lambda: 1, "a key") == 1
    threads.close()
    for start in (threads.run, threads.transfer):
        with pytest.raises(StorageUnavailable):
            await start(lambda: 1, "a key")

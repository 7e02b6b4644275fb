"""Whose work occupies the threads for CPU-bound work."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from app.heavy import THREADS, off_loop
from storage.bucket.budget import on_behalf_of


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """An event that frees the work of a test, and is set after it."""
    is_free = threading.Event()
    yield is_free
    is_free.set()


async def _work_of(tenant: str, is_free: threading.Event | None = None) -> None:
    with on_behalf_of(tenant):
        await (off_loop(int) if is_free is None else off_loop(is_free.wait))


async def _is_waiting(task: "asyncio.Task[None]") -> bool:
    """Whether a task is still not done after others have worked in the same thread pool."""
    for number in range(3):
        await _work_of(f"other {number}")
    return not task.done()


@pytest.mark.anyio
async def test_long_work_delays_no_other_tenant(held: threading.Event) -> None:
    """However much work a tenant has, another's begins at once."""
    long = [asyncio.create_task(_work_of("busy", held)) for _ in range(2 * THREADS)]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await _work_of("other")
    assert not any(task.done() for task in long)
    held.set()
    await asyncio.gather(*long)


@pytest.mark.anyio
async def test_work_whose_caller_has_gone_keeps_its_thread(held: threading.Event) -> None:
    """A tenant does not get a second thread by cancelling what runs in its first."""
    for _ in range(THREADS):
        gone = asyncio.create_task(_work_of("busy", held))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
    following = asyncio.create_task(_work_of("busy"))
    assert await _is_waiting(following)
    held.set()
    await following


def test_a_loop_that_ends_takes_no_thread_with_it(held: threading.Event) -> None:
    """Work that outlives its event loop occupies no slot of the next loop."""

    async def leave_behind() -> None:
        asyncio.get_running_loop().create_task(_work_of("busy", held))
        await asyncio.sleep(0)

    asyncio.run(leave_behind())
    asyncio.run(asyncio.wait_for(_work_of("busy"), 20))

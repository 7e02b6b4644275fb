"""Bounded concurrent calls."""

import asyncio

import pytest

from storage.concurrency import in_background, map_bounded

pytestmark = pytest.mark.anyio


async def test_a_free_slot_is_reused_at_once() -> None:
    """A new call starts as soon as any call ends, and the results keep the order of the items."""
    slow, under_way, most = asyncio.Event(), 0, 0

    async def call(item: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if item == 0:
            await slow.wait()
        else:
            await asyncio.sleep(0)
        if item == 9:
            slow.set()
        under_way -= 1
        return item * 10

    assert await map_bounded(range(10), call, at_once=3) == [item * 10 for item in range(10)]
    assert most == 3


async def test_items_that_wait_are_no_tasks() -> None:
    """The event loop has a task for each call in flight, however many items there are."""
    tasks: set[asyncio.Task[object] | None] = set()

    async def call(_: int) -> None:
        tasks.add(asyncio.current_task())
        await asyncio.sleep(0)

    await map_bounded(range(1000), call, at_once=3)
    assert len(tasks) == 3


async def test_no_call_starts_after_a_failure() -> None:
    """After a failure no further call starts, running calls are awaited, and the first error is raised."""
    begun: list[int] = []

    async def call(item: int) -> None:
        begun.append(item)
        await asyncio.sleep(0)
        if item == 1:
            raise ValueError("one")

    with pytest.raises(ValueError, match="one"):
        await map_bounded(range(100), call, at_once=2)
    assert len(begun) <= 3


async def test_background_work_ends_with_its_block(caplog: pytest.LogCaptureFixture) -> None:
    """Background work is cancelled at the end of its block; its earlier failure is logged, and an error of the block
    is raised."""
    failed, cancelled = asyncio.Event(), asyncio.Event()

    async def fails() -> None:
        failed.set()
        raise KeyError("a")

    async def runs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def block() -> None:
        async with in_background(fails(), runs()):
            await failed.wait()
            raise LookupError("of the block")

    with pytest.raises(LookupError, match="of the block"):
        await block()
    assert cancelled.is_set()
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError

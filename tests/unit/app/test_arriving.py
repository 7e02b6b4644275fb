"""Places for bodies that arrive, and which body gives way to another."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.body.arriving import ArrivingBodies, NewestBodies, TooSlow
from app.body.large import Leave
from app.problems import Problem
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

SLOW, FAST = 70_000, 50_000_000


async def stalled(size: int) -> AsyncIterator[bytes]:
    """Yield `size` bytes, and then nothing without an end."""
    yield bytes(size)
    await asyncio.Event().wait()


class Bodies:
    """Bodies that arrive in `places` until they are cancelled or give way."""

    def __init__(self, places: ArrivingBodies) -> None:
        self.places = places
        self.tasks: list[asyncio.Task[None]] = []

    async def add(self, tenant: str, size: int) -> asyncio.Task[None]:
        held = len(self.places._waiting)
        self.tasks.append(asyncio.create_task(self._received(tenant, size)))
        await until(lambda: len(self.places._waiting) == held + 1)
        return self.tasks[-1]

    async def _received(self, tenant: str, size: int) -> None:
        steps: list[Leave] = []
        try:
            async for _ in self.places.chunks(tenant, stalled(size), steps.append):
                pass
        finally:
            for step in steps:
                step()

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


async def test_the_slowest_body_gives_way_once_another_waits() -> None:
    """A slow body keeps its place while no body waits; then the slowest one gives way, and no other."""
    bodies = Bodies(ArrivingBodies(2, slow_s=0.05, check_s=0.02))
    slow, slowest = await bodies.add("a", 10 * SLOW), await bodies.add("b", SLOW)
    await asyncio.sleep(0.1)
    assert not slow.done()
    assert not slowest.done()
    leave = await bodies.places.enter("c")
    with pytest.raises(TooSlow, match="512 KiB in 10 s, and others wait"):
        await slowest
    assert not slow.done()
    leave()
    await bodies.end()


async def test_a_body_that_comes_quickly_keeps_its_place() -> None:
    """A body that has brought enough for its time keeps its place, and the other one is refused after its wait."""
    bodies = Bodies(ArrivingBodies(1, wait_s=0.2, slow_s=0.05, check_s=0.02))
    fast = await bodies.add("a", FAST)
    with pytest.raises(Problem):
        await bodies.places.enter("b")
    assert not fast.done()
    await bodies.end()


async def test_a_tenant_with_its_half_takes_no_place_of_others() -> None:
    """A body of a tenant that has its half of the places ends no slow body but one of its tenant."""
    bodies = Bodies(ArrivingBodies(4, wait_s=0.2, slow_s=0.05, check_s=0.02))
    others = [await bodies.add("b", SLOW) for _ in range(2)]
    await bodies.add("a", FAST)
    leave = await bodies.places.enter("a")
    with pytest.raises(Problem):
        await bodies.places.enter("a")
    leave()
    own = await bodies.add("a", SLOW)
    await bodies.places.enter("a")
    with pytest.raises(TooSlow):
        await own
    assert not any(task.done() for task in others)
    await bodies.end()


async def test_a_stream_that_times_out_is_not_called_slow() -> None:
    """The timeout of a body that pauses too long is passed on as it is."""

    async def late() -> AsyncIterator[bytes]:
        yield bytes(SLOW)
        raise TimeoutError

    steps: list[Leave] = []
    with pytest.raises(TimeoutError) as raised:
        async for _ in ArrivingBodies(1).chunks("a", late(), steps.append):
            pass
    assert not isinstance(raised.value, TooSlow)
    assert len(steps) == 1


async def test_the_oldest_small_body_gives_way_to_the_newest() -> None:
    """Beyond the limit the oldest body ends at once, and a body that has arrived no longer counts."""
    newest, ended = NewestBodies(2), []

    async def arriving(number: int, done: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(60) as limit:
                with newest.counted(limit):
                    await done.wait()
        except TimeoutError:
            ended.append(number)

    events = [asyncio.Event() for _ in range(4)]
    tasks = [asyncio.create_task(arriving(number, event)) for number, event in enumerate(events)]
    await asyncio.wait(tasks[:2])
    assert ended == [0, 1]
    events[2].set()
    await tasks[2]
    later = asyncio.create_task(arriving(4, events[2]))
    await later
    events[3].set()
    await tasks[3]
    assert ended == [0, 1]

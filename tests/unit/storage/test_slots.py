"""Slots for expensive work: bounded, and shared fairly."""

import asyncio

import pytest

from storage.fair_slots import FairSlots, NoSlot

pytestmark = pytest.mark.anyio


class Work:
    """Tasks that hold a slot until they are ended; `running` lists the holders in order."""

    def __init__(self, slots: FairSlots) -> None:
        self._slots = slots
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.running: list[str] = []

    async def start(self, *names: str) -> None:
        """Start tasks whose keys are the first letters of their names."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._hold(name))
            await self._settled()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._tasks.pop(name)
        await self._settled()

    async def cancel(self, name: str) -> None:
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self._settled()

    async def end_all(self) -> None:
        while self._tasks:
            for name in list(self.running):
                await self.end(name)

    async def _hold(self, name: str) -> None:
        async with self._slots.slot(name[0]):
            self.running.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.running.remove(name)

    async def _settled(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_keys_take_turns() -> None:
    """Many waiting tasks of one key do not delay the next task of another key."""
    work = Work(FairSlots(1))
    await work.start("a1", "a2", "a3", "b1")
    order = []
    for _ in range(4):
        order += work.running
        await work.end(work.running[0])
    assert order == ["a1", "a2", "b1", "a3"]


async def test_the_slots_of_a_key_are_bounded() -> None:
    """A key holds at most `each` slots, and the others stay free for other keys."""
    work = Work(FairSlots(3, each=2))
    await work.start("a1", "a2", "a3", "b1", "b2")
    assert work.running == ["a1", "a2", "b1"]
    await work.end("a1")
    assert work.running == ["a2", "b1", "a3"]
    await work.end("b1")
    assert work.running == ["a2", "a3", "b2"]
    await work.end_all()


async def test_a_cancelled_wait_releases_its_slot() -> None:
    """A cancelled wait passes its slot on, even if the slot was granted at that moment."""
    slots = FairSlots(1)
    work = Work(slots)
    await work.start("a1", "a2", "b1")
    await work.cancel("a2")
    await work.end("a1")
    assert work.running == ["b1"]
    await work.start("a3", "c1")
    await asyncio.gather(work.cancel("b1"), work.cancel("a3"))
    assert work.running == ["c1"]
    await work.end_all()
    async with slots.slot("d"):
        pass


async def test_a_wait_beyond_its_limits_is_refused() -> None:
    """A task is refused if its key has too many waiting tasks or if it waits too long."""
    slots = FairSlots(1, max_waiting=1, wait_s=0.05)
    async with slots.slot("a"):
        waiting = asyncio.create_task(slots.slot("a").__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(NoSlot, match="wait already"):
            await slots.slot("a").__aenter__()
        with pytest.raises(NoSlot, match="within"):
            await waiting
    async with slots.slot("a"):
        pass

"""`Signal`: hints within a process, and between the processes of one machine."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.local.signal import open_signal
from storage.signal import MemorySignal, Signal

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "one socket", "two sockets"])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Signal, Signal]]:
    """Where it is rung, and where it is heard. A socket's path must be short."""
    if request.param == "memory":
        signal = MemorySignal()
        yield signal, signal
        return
    with tempfile.TemporaryDirectory(prefix="cm-") as folder:
        async with open_signal(Path(folder), "a") as one:
            if request.param == "one socket":
                yield one, one
                return
            async with open_signal(Path(folder), "b") as other:
                yield one, other


async def test_a_ring_is_heard_on_its_topic_alone(ends: tuple[Signal, Signal]) -> None:
    """By everyone who listens to it."""
    ringing, hearing = ends
    with hearing.listen("job/x") as one, hearing.listen("job/x") as other, hearing.listen("job/y") as foreign:
        ringing.ring("job/x")
        assert await one.wait(5)
        assert await other.wait(5)
        assert not await foreign.wait(0.05)


async def test_a_ring_before_the_wait_is_not_lost(ends: tuple[Signal, Signal]) -> None:
    """And counts once."""
    ringing, hearing = ends
    with hearing.listen("t") as bell:
        ringing.ring("t")
        ringing.ring("t")
        assert await bell.wait(5)
        await bell.wait(0.05)
        assert not await bell.wait(0.05)


async def test_ringing_for_nobody_is_no_error(ends: tuple[Signal, Signal]) -> None:
    """Also when a neighbour left its socket behind."""
    ringing, hearing = ends
    with hearing.listen("t"):
        pass
    ringing.ring("t")


async def test_a_killed_neighbour_is_ignored(tmp_path: Path) -> None:
    """Its socket file is still there, and nobody reads it."""
    with tempfile.TemporaryDirectory(prefix="cm-") as folder:
        (Path(folder) / "dead.sock").write_bytes(b"")
        async with open_signal(Path(folder), "a") as signal:
            signal.ring("t")
        async with open_signal(Path(folder), "dead") as reborn:
            with reborn.listen("t") as bell:
                reborn.ring("t")
                assert await bell.wait(1)

"""`Signal`: wake-ups within a process and between the processes of one machine."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.local.signal import open_signal
from storage.signal import MemorySignal, Signal

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "one socket", "two sockets"])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Signal, Signal]]:
    """The ends that ring and listen; a socket's path must be short."""
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


async def test_a_ring_reaches_only_its_topic(ends: tuple[Signal, Signal]) -> None:
    """A ring wakes every listener of its topic and no other."""
    sender, receiver = ends
    with receiver.listen("job/x") as one, receiver.listen("job/x") as other, receiver.listen("job/y") as foreign:
        sender.ring("job/x")
        assert await one.wait(5)
        assert await other.wait(5)
        assert not await foreign.wait(0.05)


async def test_a_ring_before_the_wait_is_not_lost(ends: tuple[Signal, Signal]) -> None:
    """Rings before the wait wake the listener once."""
    sender, receiver = ends
    with receiver.listen("t") as listener:
        sender.ring("t")
        sender.ring("t")
        assert await listener.wait(5)
        await listener.wait(0.05)
        assert not await listener.wait(0.05)


async def test_ringing_without_a_listener_is_not_an_error(ends: tuple[Signal, Signal]) -> None:
    """A ring without a listener is ignored."""
    sender, receiver = ends
    with receiver.listen("t"):
        pass
    sender.ring("t")


async def test_the_socket_of_a_killed_process_is_ignored(tmp_path: Path) -> None:
    """The socket of a killed process disturbs no ring, and a process of the same name can replace it."""
    with tempfile.TemporaryDirectory(prefix="cm-") as folder:
        (Path(folder) / "dead.sock").write_bytes(b"")
        async with open_signal(Path(folder), "a") as signal:
            signal.ring("t")
        async with open_signal(Path(folder), "dead") as restarted:
            with restarted.listen("t") as listener:
                restarted.ring("t")
                assert await listener.wait(1)

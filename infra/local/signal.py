"""The `Signal` port between the processes of one machine: a datagram socket for each, in one shared folder.

A signal is sent to every socket in the folder. Delivery is not guaranteed, because waiters also poll.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from infra.settings import Settings
from storage.signal import MemorySignal

_MAX_DATAGRAM = 4096


class DatagramSignal(MemorySignal):
    """A signal that reaches this process and its neighbours. `open_signal` creates it."""

    def __init__(self, folder: Path, name: str, sender: socket.socket) -> None:
        super().__init__()
        self._folder = folder
        self._own = name
        self._sender = sender

    def ring(self, topic: str) -> None:
        super().ring(topic)
        for neighbour in self._folder.glob("*.sock"):
            if neighbour.name != self._own:
                # A killed process leaves its socket behind, and the queue of a busy one may be full.
                with contextlib.suppress(OSError):
                    self._sender.sendto(topic.encode(), str(neighbour))

    def heard(self, datagram: bytes) -> None:
        super().ring(datagram.decode(errors="replace"))


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, signal: DatagramSignal) -> None:
        self._signal = signal

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._signal.heard(data[:_MAX_DATAGRAM])


@contextlib.asynccontextmanager
async def open_signal(folder: Path, process: str) -> AsyncIterator[DatagramSignal]:
    """Create this process's socket in the folder. It replaces the socket that a killed process left."""
    path = folder / f"{process}.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)  # a neighbour that does not read must not stop this process
        signal = DatagramSignal(folder, path.name, sender)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Receiver(signal), local_addr=str(path), family=socket.AF_UNIX
        )
        try:
            yield signal
        finally:
            transport.close()
            path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def open_local_signal(settings: Settings) -> AsyncIterator[MemorySignal]:
    """Open the signal of this machine's processes; without `signal_dir`, one for this process only."""
    if settings.signal_dir is None:
        yield MemorySignal()
        return
    async with open_signal(settings.signal_dir, settings.process_name) as signal:
        yield signal

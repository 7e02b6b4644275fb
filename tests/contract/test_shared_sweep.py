"""The calls of a Modal container's deliverer share one sweep."""

import threading
from collections.abc import Iterator

import pytest

from infra.on_modal.tasks import SharedSweep
from storage.signal import OUTBOX_TOPIC, MemorySignal


class Sweeps:
    """Sweeps that each list once, and again when they are woken, until `released`."""

    def __init__(self) -> None:
        self.listed = threading.Semaphore(0)
        self.started = 0
        self.released = threading.Event()

    async def sweep(self, signal: MemorySignal) -> None:
        self.started += 1
        with signal.listen(OUTBOX_TOPIC) as listener:
            self.listed.release()
            while not self.released.is_set():
                if await listener.wait(0.01):
                    self.listed.release()


@pytest.fixture
def sweeps() -> Iterator[Sweeps]:
    sweeps = Sweeps()
    yield sweeps
    sweeps.released.set()


def test_a_call_during_a_sweep_wakes_it(sweeps: Sweeps) -> None:
    """A call during a sweep makes it list again, without waiting for the slow receivers of earlier events."""
    shared = SharedSweep(sweeps.sweep)
    calls = [threading.Thread(target=shared.call) for _ in range(5)]
    for call in calls:
        call.start()
        assert sweeps.listed.acquire(timeout=30)
    assert sweeps.started == 1
    for call in calls[2:]:
        call.join(30)
    assert [call.is_alive() for call in calls] == [True, True, False, False, False]
    sweeps.released.set()
    for call in calls:
        call.join(30)
    assert sweeps.started == 2


def test_a_call_after_a_sweep_starts_another(sweeps: Sweeps) -> None:
    """A call after the end of a sweep starts another sweep."""
    shared = SharedSweep(sweeps.sweep)
    sweeps.released.set()
    shared.call()
    shared.call()
    assert sweeps.started == 2


def test_a_failed_sweep_does_not_prevent_the_next(sweeps: Sweeps) -> None:
    """A failed sweep raises in its own call, and the next call starts another sweep."""

    async def failing(signal: MemorySignal) -> None:
        if sweeps.started == 0:
            sweeps.started += 1
            raise ValueError("not set")
        await sweeps.sweep(signal)

    shared = SharedSweep(failing)
    with pytest.raises(ValueError, match="not set"):
        shared.call()
    sweeps.released.set()
    shared.call()
    assert sweeps.started == 2

"""The loop that repeats a conditional write."""

import pytest

from storage.bucket.conditional import CAS_ATTEMPTS, compare_and_swap
from storage.errors import PreconditionFailed, StorageUnavailable
from tests.simulation.virtual_time import run_virtually

pytestmark = pytest.mark.anyio


class Contended:
    """A record that another writer changes before each of the first `losses` writes."""

    def __init__(self, losses: int) -> None:
        self.losses = losses
        self.reads = 0
        self.written: list[int] = []

    async def read(self) -> int:
        self.reads += 1
        return self.reads

    async def write(self, found: int) -> int:
        if self.losses > 0:
            self.losses -= 1
            raise PreconditionFailed("record")
        self.written.append(found)
        return found * 10


async def swapped(record: Contended, at_hand: int | None = None) -> int:
    return await compare_and_swap("the record", record.read, record.write, at_hand=at_hand)


async def test_the_version_at_hand_saves_a_read() -> None:
    """It is written from without one."""
    record = Contended(losses=0)
    assert (await swapped(record, at_hand=7), record.reads) == (70, 0)


async def test_a_lost_race_reads_again() -> None:
    """Each write is decided by what was read after the last loss."""
    record = Contended(losses=2)
    assert (await swapped(record, at_hand=7), record.reads, record.written) == (20, 2, [2])


def test_races_are_lost_a_bounded_number_of_times() -> None:
    """Then the store counts as unavailable, by the record's name."""
    record = Contended(losses=1000)
    with pytest.raises(StorageUnavailable, match="the record changes too fast"):
        run_virtually(lambda: swapped(record))
    assert record.reads == CAS_ATTEMPTS


async def test_what_a_writer_raises_is_raised() -> None:
    """After one read, and without a repetition."""
    record = Contended(losses=0)

    async def refuse(_: int) -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await compare_and_swap("the record", record.read, refuse)
    assert record.reads == 1

"""The loop that repeats a conditional write."""

import pytest

from storage.bucket.records import CAS_ATTEMPTS, compare_and_swap
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


async def test_a_known_version_saves_a_read() -> None:
    """A write from a version that the caller already has needs no read."""
    record = Contended(losses=0)
    assert (await swapped(record, at_hand=7), record.reads) == (70, 0)


async def test_a_lost_race_reads_again() -> None:
    """After a lost race the record is read again, and the next write is based on that read."""
    record = Contended(losses=2)
    assert (await swapped(record, at_hand=7), record.reads, record.written) == (20, 2, [2])


def test_the_number_of_attempts_is_bounded() -> None:
    """After a bounded number of lost races StorageUnavailable is raised with the name of the record."""
    record = Contended(losses=1000)
    with pytest.raises(StorageUnavailable, match="the record changes too fast"):
        run_virtually(lambda: swapped(record))
    assert record.reads == CAS_ATTEMPTS


async def test_an_error_of_the_writer_is_not_retried() -> None:
    """An error of the writer is raised after one read."""
    record = Contended(losses=0)

    async def refuse(_: int) -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await compare_and_swap("the record", record.read, refuse)
    assert record.reads == 1

"""Starts of the engine, counted in the bucket."""

import asyncio
from datetime import timedelta

import pytest

from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import StoredObject
from storage.clock import ManualClock
from storage.errors import StorageUnavailable
from storage.pools.engine_starts import EngineStarts, EngineStartStore, StartPolicy
from workers.errors import EngineUnavailable
from workers.starts import TAIL_LINES, CountedStarts

pytestmark = pytest.mark.anyio

SECRET = "hunter2"


class Bench:
    """A pool that pauses at its second consecutive failure."""

    def __init__(self, clock: ManualClock, lease_s: float = 60) -> None:
        self.objects = MemoryObjectStore(clock)
        policy = StartPolicy(max_failures=2, lease=timedelta(seconds=lease_s))
        self.store = EngineStartStore(self.objects, clock, policy)
        self.starts = CountedStarts(self.store, "default", "w1", lambda text: text.replace(SECRET, "…"))

    async def record(self) -> EngineStarts:
        return EngineStarts.model_validate_json((await self.objects.get(keys.engine_starts("default"))).body)


@pytest.fixture
def bench(clock: ManualClock) -> Bench:
    return Bench(clock)


async def test_a_failed_start_records_its_reason(bench: Bench) -> None:
    """A failed start records its first line as the message and the last lines of the engine's log, without secrets."""

    async def start() -> None:
        lines = [f"line {number} {SECRET}" for number in range(2 * TAIL_LINES)]
        raise EngineUnavailable("\n".join([f"the engine ended {SECRET}", *lines]))

    with pytest.raises(EngineUnavailable, match="the engine ended …") as raised:
        await bench.starts.run(start)
    assert SECRET not in str(raised.value)
    last = (await bench.record()).last
    assert last is not None
    assert (last.message, len(last.log_tail), last.log_tail[-1]) == ("the engine ended …", TAIL_LINES, "line 39 …")


async def test_any_error_counts(bench: Bench) -> None:
    """Any error during a start counts as a failure, because Modal would otherwise repeat the start forever."""

    async def start() -> None:
        raise ValueError("warm_up: there is no workflow 'x'")

    for _ in range(2):
        await bench.starts.check()
        with pytest.raises(EngineUnavailable, match="ValueError: warm_up"):
            await bench.starts.run(start)
    with pytest.raises(EngineUnavailable, match=r"no start is tried before .* 2 times in a row: ValueError"):
        await bench.starts.check()


async def test_a_running_start_is_recorded_and_renewed(clock: ManualClock) -> None:
    """A running start is recorded and renewed, so that a container that dies in it is counted, until it succeeds."""
    bench = Bench(clock, lease_s=0.03)
    renewed = asyncio.Event()
    first = clock.now()
    clock_ran = first + timedelta(seconds=0.01)

    async def start() -> None:
        assert [(one.worker, one.renewed_at) for one in (await bench.record()).starting] == [("w1", first)]
        clock.set(clock_ran)
        while (await bench.record()).starting[0].renewed_at == first:  # noqa: ASYNC110  a record rings no bell
            await asyncio.sleep(0.01)
        renewed.set()

    await bench.starts.run(start)
    assert renewed.is_set()
    assert (await bench.record()).starting == ()


async def test_a_preempted_start_does_not_count(bench: Bench) -> None:
    """A cancelled start is not counted as a failure."""
    begun = asyncio.Event()

    async def start() -> None:
        begun.set()
        await asyncio.Event().wait()

    starting = asyncio.create_task(bench.starts.run(start))
    await begun.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    record = await bench.record()
    assert (record.failures, record.starting) == (0, ())


async def test_a_failed_snapshot_does_not_count(bench: Bench) -> None:
    """Work before a start is recorded while it runs and counts only if it kills the container."""
    async with bench.starts.watched():
        assert [one.worker for one in (await bench.record()).starting] == ["w1"]
    record = await bench.record()
    assert (record.failures, record.starting) == (0, ())


class DownBucket(MemoryObjectStore):
    async def get(self, key: str) -> StoredObject:
        raise StorageUnavailable("the bucket does not answer")


async def test_an_unavailable_bucket_does_not_prevent_a_start(clock: ManualClock) -> None:
    """The engine starts uncounted if the bucket is unavailable."""
    started = asyncio.Event()

    async def start() -> None:
        started.set()

    store = EngineStartStore(DownBucket(clock), clock, StartPolicy())
    starts = CountedStarts(store, "default", "w1", str)
    await starts.check()
    await starts.run(start)
    assert started.is_set()

"""How failed starts of an engine are counted, with the in-memory store."""

from datetime import timedelta

import pytest

from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.launcher import MemoryLauncher
from storage.pools.engine_starts import DIED, EngineStartStore, PausingLauncher, StartPolicy

pytestmark = pytest.mark.anyio

POLICY = StartPolicy(max_failures=3, pause=timedelta(minutes=5), lease=timedelta(seconds=60))


@pytest.fixture
def store(clock: ManualClock) -> EngineStartStore:
    return EngineStartStore(MemoryObjectStore(clock), clock, POLICY)


async def fail(store: EngineStartStore, worker: str) -> None:
    await store.begin("default", worker)
    await store.fail("default", worker, "no kernel image", ("line 1", "line 2"))


async def test_the_third_consecutive_failure_pauses_the_pool(store: EngineStartStore, clock: ManualClock) -> None:
    """The third consecutive failure pauses this pool only, and the engine counts as broken until a start succeeds."""
    for number in (1, 2, 3):
        assert not (await store.state("default")).is_exhausted
        await fail(store, f"w{number}")
    state = await store.state("default")
    assert (state.failures, state.is_exhausted, state.paused_until) == (3, True, clock.now() + POLICY.pause)
    assert state.last is not None
    assert (state.last.worker, state.last.message, state.last.log_tail) == (
        "w3",
        "no kernel image",
        ("line 1", "line 2"),
    )
    assert (await store.state("h100")).failures == 0
    clock.set(clock.now() + POLICY.pause)
    state = await store.state("default")
    assert (state.is_exhausted, state.paused_until) == (True, None)
    await store.begin("default", "w4")
    await store.succeed("default", "w4")
    assert (await store.state("default")).last is None


async def test_each_failed_start_of_one_worker_counts(store: EngineStartStore, clock: ManualClock) -> None:
    """Each failed start counts even if a restarted worker has the same name, whether it failed or was killed."""
    for _ in range(2):
        await fail(store, "worker-1")
    await store.begin("default", "worker-1")
    clock.set(clock.now() + timedelta(seconds=61))
    await fail(store, "worker-1")
    assert (await store.state("default")).failures == 4


async def test_a_success_resets_the_failures(store: EngineStartStore) -> None:
    """Only consecutive failures count."""
    await fail(store, "w1")
    await fail(store, "w2")
    await store.succeed("default", "w3")
    await fail(store, "w4")
    assert (await store.state("default")).failures == 1


async def test_a_container_that_dies_during_its_start_counts(store: EngineStartStore, clock: ManualClock) -> None:
    """A start without a renewal within the lease counts as failed; a renewed or withdrawn start does not."""
    for worker in ("dies", "lives", "leaves"):
        await store.begin("default", worker)
    await store.withdraw("default", "leaves")
    clock.set(clock.now() + timedelta(seconds=40))
    await store.renew("default", "lives")
    clock.set(clock.now() + timedelta(seconds=20))
    state = await store.state("default")
    assert state.last is not None
    assert (state.failures, state.last.worker, state.last.message) == (1, "dies", DIED)


async def test_a_container_presumed_dead_counts_once(store: EngineStartStore, clock: ManualClock) -> None:
    """A late report of a container presumed dead replaces that failure, and a late success removes it."""
    await store.begin("default", "slow")
    clock.set(clock.now() + timedelta(seconds=61))
    await store.renew("default", "slow")
    await store.fail("default", "slow", "no kernel image")
    state = await store.state("default")
    assert state.last is not None
    assert (state.failures, state.last.message) == (1, "no kernel image")
    await store.succeed("default", "slow")
    assert (await store.state("default")).failures == 0


async def test_a_dead_container_keeps_the_last_known_reason(store: EngineStartStore, clock: ManualClock) -> None:
    """A container that dies without a report does not replace the reason of an earlier failure."""
    await fail(store, "w1")
    await store.begin("default", "w2")
    clock.set(clock.now() + timedelta(seconds=61))
    state = await store.state("default")
    assert state.last is not None
    assert (state.failures, state.last.message) == (2, "no kernel image")


async def test_a_deployment_resets_the_failures(store: EngineStartStore) -> None:
    """A new deployment clears the failures of the previous version."""
    for number in range(3):
        await fail(store, f"w{number}")
    await store.forget("default")
    assert (await store.state("default")).failures == 0
    assert (await store.recent_state("default")).paused_until is None


async def test_an_unreadable_record_is_replaced(clock: ManualClock) -> None:
    """A record that cannot be parsed, such as one of another version, counts as empty and is replaced."""
    objects = MemoryObjectStore(clock)
    store = EngineStartStore(objects, clock, POLICY)
    await objects.put(keys.engine_starts("default"), b'{"colour": "green"}')
    assert (await store.state("default")).failures == 0
    await fail(store, "w1")
    assert (await store.state("default")).failures == 1


async def test_a_paused_pool_gets_no_worker(store: EngineStartStore, clock: ManualClock) -> None:
    """A paused pool gets no worker until its pause is over, while other pools do."""
    launcher = MemoryLauncher()
    pausing = PausingLauncher(launcher, store)
    for number in range(3):
        await fail(store, f"w{number}")
    assert await pausing.spawn("default") is None
    assert await pausing.spawn("h100") == "h100-1"
    clock.set(clock.now() + POLICY.pause)
    assert await pausing.spawn("default") == "default-2"
    assert await pausing.waiting("default") == 1
    await pausing.cancel("default-2")
    assert await pausing.waiting("default") == 0

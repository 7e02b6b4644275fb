"""How an engine's starts are counted, over the in-memory store."""

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


async def test_the_third_failure_in_a_row_pauses_the_pool(store: EngineStartStore, clock: ManualClock) -> None:
    """And no other pool; when the pause is over the engine still counts as broken, until a start succeeds."""
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


async def test_a_worker_that_starts_again_counts_again(store: EngineStartStore, clock: ManualClock) -> None:
    """On one's own machine it has the name that it had before, whether it said why it failed or was killed."""
    for _ in range(2):
        await fail(store, "worker-1")
    await store.begin("default", "worker-1")
    clock.set(clock.now() + timedelta(seconds=61))
    await fail(store, "worker-1")
    assert (await store.state("default")).failures == 4


async def test_a_success_ends_the_row(store: EngineStartStore) -> None:
    """Only failures in a row count."""
    await fail(store, "w1")
    await fail(store, "w2")
    await store.succeed("default", "w3")
    await fail(store, "w4")
    assert (await store.state("default")).failures == 1


async def test_a_container_that_dies_in_its_start_counts(store: EngineStartStore, clock: ManualClock) -> None:
    """Once it has given no sign of life for a lease; one that is renewed, or was withdrawn, does not."""
    for worker in ("dies", "lives", "leaves"):
        await store.begin("default", worker)
    await store.withdraw("default", "leaves")
    clock.set(clock.now() + timedelta(seconds=40))
    await store.renew("default", "lives")
    clock.set(clock.now() + timedelta(seconds=20))
    state = await store.state("default")
    assert state.last is not None
    assert (state.failures, state.last.worker, state.last.message) == (1, "dies", DIED)


async def test_a_container_that_was_taken_for_dead_counts_once(store: EngineStartStore, clock: ManualClock) -> None:
    """Its own reason takes the place of the guess; if it succeeds after all, nothing has failed."""
    await store.begin("default", "slow")
    clock.set(clock.now() + timedelta(seconds=61))
    await store.renew("default", "slow")
    await store.fail("default", "slow", "no kernel image")
    state = await store.state("default")
    assert state.last is not None
    assert (state.failures, state.last.message) == (1, "no kernel image")
    await store.succeed("default", "slow")
    assert (await store.state("default")).failures == 0


async def test_what_the_engine_said_is_kept_when_a_container_dies(store: EngineStartStore, clock: ManualClock) -> None:
    """A container that ends without a word does not replace the reason that another one gave."""
    await fail(store, "w1")
    await store.begin("default", "w2")
    clock.set(clock.now() + timedelta(seconds=61))
    state = await store.state("default")
    assert state.last is not None
    assert (state.failures, state.last.message) == (2, "no kernel image")


async def test_a_deployment_begins_anew(store: EngineStartStore) -> None:
    """What the version before could not start says nothing of the next one."""
    for number in range(3):
        await fail(store, f"w{number}")
    await store.forget("default")
    assert (await store.state("default")).failures == 0
    assert (await store.recent_state("default")).paused_until is None


async def test_a_record_that_cannot_be_read_counts_as_none(clock: ManualClock) -> None:
    """Another version may have written it; it is replaced."""
    objects = MemoryObjectStore(clock)
    store = EngineStartStore(objects, clock, POLICY)
    await objects.put(keys.engine_starts("default"), b'{"colour": "green"}')
    assert (await store.state("default")).failures == 0
    await fail(store, "w1")
    assert (await store.state("default")).failures == 1


async def test_a_paused_pool_gets_no_worker(store: EngineStartStore, clock: ManualClock) -> None:
    """Others do, and so does it when the pause is over."""
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

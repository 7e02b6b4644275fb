"""One tenant's requests take a bounded share of the event loop while others need it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.loop_shares import ACTIVE_S, BURST_S, CALLED_AT_ONCE, ITERATION_S, SHARE, LoopShares, metered
from app.middleware import PROBES, LoopShareMiddleware
from storage.fair_slots import NoSlot

pytestmark = pytest.mark.anyio


class FakeTime:
    """A clock that moves when a request computes or a test sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.on_sleep: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self.seconds

    def compute(self, seconds: float) -> None:
        self.seconds += seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.on_sleep()
        await asyncio.sleep(0)


@pytest.fixture
async def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def shares(clock: FakeTime) -> LoopShares:
    return LoopShares(now=clock.now, sleep=clock.sleep)


async def test_a_tenant_beyond_its_share_waits_until_time_has_paid_its_debt(
    shares: LoopShares, clock: FakeTime
) -> None:
    """A tenant that computed while another was active waits in proportion before its next request begins."""
    clock.on_sleep = lambda: shares.note_arrival("other")
    shares.note_arrival("busy")
    shares.note_arrival("other")
    shares.charge("busy", 2.0)
    await shares.turn("busy")
    assert clock.seconds == pytest.approx((2.0 - BURST_S) / SHARE, abs=0.01)


async def test_a_tenant_that_is_alone_never_waits(shares: LoopShares, clock: FakeTime) -> None:
    """Nothing is charged while no other group sends requests, and a debt does not count when the others have left."""
    await shares.turn("busy")
    shares.charge("busy", 100.0)
    await shares.turn("busy")
    assert clock.seconds == 0
    shares.note_arrival("other")
    shares.charge("busy", 100.0)
    await shares.turn("busy")
    assert clock.seconds == pytest.approx(ACTIVE_S)


async def test_another_tenant_does_not_wait(shares: LoopShares, clock: FakeTime) -> None:
    """The debt of one tenant delays no request of another."""
    shares.note_arrival("other")
    shares.charge("busy", 100.0)
    await shares.turn("other")
    assert clock.seconds == 0


async def test_requests_that_wait_too_long_are_refused(clock: FakeTime) -> None:
    """Requests of one tenant begin in order; one that waits for the others longer than the limit raises NoSlot."""
    asleep = asyncio.Event()

    async def sleep(_: float) -> None:
        slow.note_arrival("other")
        await asleep.wait()
        clock.compute(1000)

    slow = LoopShares(now=clock.now, sleep=sleep, wait_s=0.01)
    slow.note_arrival("busy")
    slow.note_arrival("other")
    slow.charge("busy", 100.0)
    first = asyncio.create_task(slow.turn("busy"))
    await asyncio.sleep(0)
    with pytest.raises(NoSlot):
        await slow.turn("busy")
    asleep.set()
    await first


async def test_a_refused_request_is_answered_429(clock: FakeTime) -> None:
    """A request that waits too long for its tenant's share is answered 429 with Retry-After; a probe never waits."""
    begun: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(scope["state"]["group"])

    async def for_ever(_: float) -> None:
        slow.note_arrival("other")
        await asyncio.Event().wait()

    slow = LoopShares(now=clock.now, sleep=for_ever, wait_s=0.01)
    middleware = LoopShareMiddleware(app, shares=slow)
    slow.note_arrival("busy")
    slow.note_arrival("other")
    slow.charge("busy", 100.0)
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    def request(group: str) -> Awaitable[None]:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "state": {"group": group}}
        return middleware(scope, _receive, send)

    waiting = asyncio.ensure_future(request("busy"))
    await asyncio.sleep(0)
    await asyncio.gather(request("busy"), request("other"), request(PROBES))
    waiting.cancel()
    assert begun == ["other", PROBES]
    assert messages[0]["status"] == 429
    assert dict(messages[0]["headers"])[b"retry-after"]


async def test_an_iteration_of_the_loop_has_few_long_steps_of_one_tenant(shares: LoopShares, clock: FakeTime) -> None:
    """Requests that are ready at the same time and compute for long make their steps in different iterations."""
    iteration, steps = 0, Counter[int]()
    ready = asyncio.Event()

    async def count() -> None:
        nonlocal iteration
        while True:
            iteration += 1
            await asyncio.sleep(0)

    async def request() -> None:
        await ready.wait()
        steps[iteration] += 1
        clock.compute(2 * ITERATION_S)

    counting = asyncio.create_task(count())
    requests = [asyncio.ensure_future(_metered(shares, request())) for _ in range(10)]
    await asyncio.sleep(0)
    ready.set()
    await asyncio.gather(*requests)
    counting.cancel()
    assert sum(steps.values()) == 10
    assert max(steps.values()) == 1


async def test_steps_that_are_put_off_cost_nothing_until_they_are_called(clock: FakeTime) -> None:
    """An iteration tries few of the steps that were put off, and tries them again in the order in which they came."""
    tries = 0

    class Counting(LoopShares):
        def may_step(self, group: str, *, was_put_off: bool = False) -> bool:
            nonlocal tries
            tries += 1
            return super().may_step(group, was_put_off=was_put_off)

    shares, ready = Counting(now=clock.now, sleep=clock.sleep), asyncio.Event()
    stepped: list[int] = []

    async def request(number: int) -> None:
        await ready.wait()
        stepped.append(number)
        clock.compute(2 * ITERATION_S)

    many = 20 * CALLED_AT_ONCE
    requests = [asyncio.ensure_future(_metered(shares, request(number))) for number in range(many)]
    await asyncio.sleep(0)
    tries = 0
    ready.set()
    await asyncio.gather(*requests)
    assert tries <= many * (CALLED_AT_ONCE + 1)
    assert stepped == list(range(many))


async def test_cheap_steps_do_not_wait_for_an_iteration_each(shares: LoopShares, clock: FakeTime) -> None:
    """Steps put off behind a long one are made many at a time where they are short."""
    iteration, ready = 0, asyncio.Event()

    async def count() -> None:
        nonlocal iteration
        while True:
            iteration += 1
            await asyncio.sleep(0)

    async def request(number: int) -> None:
        await ready.wait()
        clock.compute(ITERATION_S if number == 0 else ITERATION_S / 1000)

    many = 10 * CALLED_AT_ONCE
    requests = [asyncio.ensure_future(_metered(shares, request(number))) for number in range(many)]
    await asyncio.sleep(0)
    counting = asyncio.create_task(count())
    ready.set()
    await asyncio.gather(*requests)
    counting.cancel()
    assert iteration < 20


async def test_tasks_of_a_request_are_at_the_expense_of_its_tenant(shares: LoopShares, clock: FakeTime) -> None:
    """The steps of tasks that a request starts, and of theirs, are charged and put off as its own are."""
    iteration, steps = 0, Counter[int]()
    charged: list[float] = []

    async def count() -> None:
        nonlocal iteration
        while True:
            iteration += 1
            await asyncio.sleep(0)

    async def step() -> None:
        steps[iteration] += 1
        clock.compute(2 * ITERATION_S)

    async def request() -> None:
        shares.note_arrival("other")
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(step)
        await asyncio.gather(*(asyncio.create_task(step()) for _ in range(4)))
        charged.append(clock.seconds)

    counting = asyncio.create_task(count())
    await _metered(shares, request())
    counting.cancel()
    assert (sum(steps.values()), max(steps.values())) == (8, 1)
    assert charged == [pytest.approx(8 * 2 * ITERATION_S)]
    shares.note_arrival("other")
    await shares.turn("busy")
    assert clock.seconds > charged[0]


async def test_a_pipelined_request_is_charged_once(shares: LoopShares, clock: FakeTime) -> None:
    """A request that begins in the context of an earlier one of its tenant, as pipelined ones do, is charged once."""

    async def step() -> None:
        shares.note_arrival("other")
        clock.compute(0.2)

    await _metered(shares, _metered(shares, step()))
    await shares.turn("busy")
    assert clock.seconds == pytest.approx(0.2 + (0.2 - BURST_S) / SHARE, abs=0.01)


async def test_failures_and_cancellations_reach_the_request(shares: LoopShares, clock: FakeTime) -> None:
    """A metered request sees the failure of what it awaits, a time limit of its own, and its cancellation, also while
    its step is put off.
    """
    seen: list[str] = []
    last_step = asyncio.Event()

    async def request() -> None:
        failing = asyncio.get_running_loop().create_future()
        failing.set_exception(ValueError("of the future"))
        try:
            await failing
        except ValueError as error:
            seen.append(str(error))
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            seen.append("timeout")
        last_step.set()
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(60)
        finally:
            seen.append("cleaned up")

    async def keep_busy() -> None:
        while True:
            shares.charge("busy", ITERATION_S)
            await asyncio.sleep(0)

    task = asyncio.ensure_future(_metered(shares, request()))
    await asyncio.wait_for(last_step.wait(), 10)
    busy = asyncio.create_task(keep_busy())
    for _ in range(5):
        await asyncio.sleep(0)
    assert seen == ["of the future", "timeout"]
    busy.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["of the future", "timeout", "cleaned up"]

    async def broken() -> None:
        raise KeyError("broken")

    with pytest.raises(KeyError):
        await _metered(shares, broken())


async def _metered(shares: LoopShares, work: Awaitable[None]) -> None:
    await metered(shares, "busy", work)


async def _receive() -> Message:
    return {"type": "http.request", "body": b""}

"""Reads shared by concurrent requests: how often they run, how fresh they are, and how they end."""

import asyncio
from collections import Counter

import pytest

from app.problems import Problem
from app.shared import SharedReads
from storage.bucket.budget import current_owner

pytestmark = pytest.mark.anyio


class Thing:
    """A slow read of a version that changes; it counts the reads."""

    def __init__(self) -> None:
        self.version = 0
        self.begun = 0
        self.under_way = self.most = 0
        self.may_end = asyncio.Event()

    async def read(self) -> int:
        self.begun += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        found = self.version
        await self.may_end.wait()
        self.under_way -= 1
        return found


async def begun(*tasks: "asyncio.Task[int]") -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def test_requests_at_the_same_time_share_one_read() -> None:
    """Thirty-two concurrent requests for a key share one read."""
    reads, thing = SharedReads[int](budget_s=5), Thing()
    asked = [asyncio.create_task(reads.get("a", "k", thing.read)) for _ in range(32)]
    await begun(*asked)
    thing.may_end.set()
    assert await asyncio.gather(*asked) == [0] * 32
    assert thing.begun == 1


async def test_a_result_is_reused_up_to_its_maximum_age() -> None:
    """A result is reused up to `max_age_s`; an older result, or a request without an age, causes a new read."""
    reads, thing = SharedReads[int](budget_s=5), Thing()
    thing.may_end.set()
    assert await reads.get("a", "k", thing.read, max_age_s=60) == 0
    thing.version = 1
    assert await reads.get("a", "k", thing.read, max_age_s=60) == 0
    assert await reads.get("a", "k", thing.read, max_age_s=1e-9) == 1
    thing.version = 2
    assert await reads.get("a", "k", thing.read) == 2
    assert thing.begun == 3


async def test_no_result_is_older_than_its_request() -> None:
    """Requests that arrive during a read share the next read, so they see changes made before they arrived."""
    reads, thing = SharedReads[int](budget_s=5), Thing()
    early = asyncio.create_task(reads.get("a", "k", thing.read))
    await begun(early)
    thing.version = 1
    late = [asyncio.create_task(reads.get("a", "k", thing.read)) for _ in range(8)]
    await begun(early, *late)
    thing.may_end.set()
    assert (await early, await asyncio.gather(*late)) == (0, [1] * 8)
    assert (thing.begun, thing.most) == (2, 1)


async def test_a_tenants_concurrent_reads_are_bounded() -> None:
    """Reads of a tenant beyond its limit wait, and reads of another tenant start at once."""
    reads, things = SharedReads[int](budget_s=5, each=3), [Thing() for _ in range(10)]
    asked = [asyncio.create_task(reads.get("a", n, thing.read)) for n, thing in enumerate(things)]
    other = Thing()
    asked.append(asyncio.create_task(reads.get("b", 0, other.read)))
    await begun(*asked)
    assert (sum(thing.begun for thing in things), other.begun) == (3, 1)
    for thing in (*things, other):
        thing.may_end.set()
    await asyncio.gather(*asked)


async def test_a_tenants_waiting_reads_are_bounded() -> None:
    """A read beyond the waiting limit is refused for its tenant alone, and can be repeated later."""
    reads, things = SharedReads[int](budget_s=5, each=1, max_waiting=2), [Thing() for _ in range(4)]
    asked = [asyncio.create_task(reads.get("a", n, thing.read)) for n, thing in enumerate(things[:3])]
    await begun(*asked)
    with pytest.raises(Problem, match="2 wait already"):
        await reads.get("a", 3, things[3].read)
    other = Thing()
    asked.append(asyncio.create_task(reads.get("b", 0, other.read)))
    for thing in (*things, other):
        thing.may_end.set()
    await asyncio.gather(*asked)
    assert await reads.get("a", 3, things[3].read) == 0
    assert things[3].begun == 1


async def test_tenants_share_nothing() -> None:
    """Two tenants that read the same key get separate reads, each with the tenant as its owner."""
    reads, owners = SharedReads[str](budget_s=5), Counter[str]()

    async def read() -> str:
        owners[current_owner()] += 1
        return current_owner()

    assert await asyncio.gather(*(reads.get(tenant, "k", read) for tenant in "ab")) == ["a", "b"]
    assert owners == {"a": 1, "b": 1}


async def test_a_cancelled_request_does_not_cancel_the_shared_read() -> None:
    """A shared read continues for the other requests when the request that started it is cancelled."""
    reads, thing = SharedReads[int](budget_s=5), Thing()
    first, second = (asyncio.create_task(reads.get("a", "k", thing.read)) for _ in range(2))
    await begun(first, second)
    first.cancel()
    thing.may_end.set()
    assert await second == 0
    assert thing.begun == 1


async def test_a_failure_reaches_all_requests_and_is_not_cached() -> None:
    """A failed read raises in every request that shares it, and the next request reads again."""
    reads = SharedReads[int](budget_s=5)

    async def fail() -> int:
        raise KeyError("gone")

    asked = await asyncio.gather(*(reads.get("a", "k", fail) for _ in range(3)), return_exceptions=True)
    assert [type(failure) for failure in asked] == [KeyError] * 3
    thing = Thing()
    thing.may_end.set()
    assert await reads.get("a", "k", thing.read) == 0

"""Answers that many requests share: how often they are made, how fresh they are, and how they end."""

import asyncio
from collections import Counter

import pytest

from app.problems import Problem
from app.shared import SharedReads
from storage.bucket.budget import current_owner

pytestmark = pytest.mark.anyio


class Thing:
    """Something that is read slowly, and that changes."""

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
    """Thirty-two of them: one read."""
    reads, thing = SharedReads[int](budget_s=5), Thing()
    asked = [asyncio.create_task(reads.get("a", "k", thing.read)) for _ in range(32)]
    await begun(*asked)
    thing.may_end.set()
    assert await asyncio.gather(*asked) == [0] * 32
    assert thing.begun == 1


async def test_an_answer_may_have_an_age() -> None:
    """Within it, there is no other read; after it, and without one, there is."""
    reads, thing = SharedReads[int](budget_s=5), Thing()
    thing.may_end.set()
    assert await reads.get("a", "k", thing.read, max_age_s=60) == 0
    thing.version = 1
    assert await reads.get("a", "k", thing.read, max_age_s=60) == 0
    assert await reads.get("a", "k", thing.read, max_age_s=1e-9) == 1
    thing.version = 2
    assert await reads.get("a", "k", thing.read) == 2
    assert thing.begun == 3


async def test_no_answer_is_older_than_its_request() -> None:
    """Who asks during a read, after a change, is answered by the next one; all of those share it."""
    reads, thing = SharedReads[int](budget_s=5), Thing()
    early = asyncio.create_task(reads.get("a", "k", thing.read))
    await begun(early)
    thing.version = 1
    late = [asyncio.create_task(reads.get("a", "k", thing.read)) for _ in range(8)]
    await begun(early, *late)
    thing.may_end.set()
    assert (await early, await asyncio.gather(*late)) == (0, [1] * 8)
    assert (thing.begun, thing.most) == (2, 1)


async def test_a_tenant_has_a_few_reads_under_way() -> None:
    """Its further ones wait, and those of another tenant do not."""
    reads, things = SharedReads[int](budget_s=5, each=3), [Thing() for _ in range(10)]
    asked = [asyncio.create_task(reads.get("a", n, thing.read)) for n, thing in enumerate(things)]
    other = Thing()
    asked.append(asyncio.create_task(reads.get("b", 0, other.read)))
    await begun(*asked)
    assert (sum(thing.begun for thing in things), other.begun) == (3, 1)
    for thing in (*things, other):
        thing.may_end.set()
    await asyncio.gather(*asked)


async def test_a_tenant_has_some_reads_waiting_and_no_more() -> None:
    """One more is refused at once, another tenant's is not, and what was refused may be asked again."""
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
    """The same key of two tenants is two things, each read in its tenant's name."""
    reads, owners = SharedReads[str](budget_s=5), Counter[str]()

    async def read() -> str:
        owners[current_owner()] += 1
        return current_owner()

    assert await asyncio.gather(*(reads.get(tenant, "k", read) for tenant in "ab")) == ["a", "b"]
    assert owners == {"a": 1, "b": 1}


async def test_a_client_that_goes_leaves_the_answer_to_the_others() -> None:
    """Even the one for which the read began."""
    reads, thing = SharedReads[int](budget_s=5), Thing()
    first, second = (asyncio.create_task(reads.get("a", "k", thing.read)) for _ in range(2))
    await begun(first, second)
    first.cancel()
    thing.may_end.set()
    assert await second == 0
    assert thing.begun == 1


async def test_a_failure_reaches_everyone_and_is_not_kept() -> None:
    """The next request reads again."""
    reads = SharedReads[int](budget_s=5)

    async def fail() -> int:
        raise KeyError("gone")

    asked = await asyncio.gather(*(reads.get("a", "k", fail) for _ in range(3)), return_exceptions=True)
    assert [type(failure) for failure in asked] == [KeyError] * 3
    thing = Thing()
    thing.may_end.set()
    assert await reads.get("a", "k", thing.read) == 0

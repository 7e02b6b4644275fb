"""The threads that run blocking calls to the bucket."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial

import pytest

from storage.bucket._threads import Threads
from storage.bucket.budget import budget_of, on_behalf_of
from storage.errors import StorageUnavailable
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


async def test_a_call_after_close_raises_storage_unavailable() -> None:
    """A call after `close` raises StorageUnavailable, which late background work already handles."""
    threads = Threads(1)
    assert await threads.run(lambda: 1, "a key") == 1
    threads.close()
    for start in (threads.run, threads.transfer):
        with pytest.raises(StorageUnavailable):
            await start(lambda: 1, "a key")


async def test_tenants_take_the_threads_in_turn() -> None:
    """A tenant's first call runs after at most two calls of a tenant with many waiting calls."""
    threads, gate, order = Threads(1), threading.Event(), list[str]()

    def call(tenant: str) -> None:
        gate.wait(20)
        order.append(tenant)

    async def ask(tenant: str, count: int) -> None:
        with budget_of(30) as budget:
            budget.owner = tenant
            await asyncio.gather(*(threads.run(partial(call, tenant), "a key") for _ in range(count)))

    many = asyncio.create_task(ask("many", 50))
    await until(lambda: threads._places._waiting)
    few = asyncio.create_task(ask("few", 1))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(many, few)
    assert order.index("few") <= 2
    threads.close()


async def test_calls_of_one_tenant_leave_a_thread_to_others() -> None:
    """A tenant has its number of threads, which also those occupy whose callers have left."""
    threads, gate = Threads(2, of_tenant=1), threading.Event()

    async def ask(tenant: str, call: Callable[[], object]) -> object:
        with on_behalf_of(tenant):
            return await threads.run(call, "a key")

    left = asyncio.create_task(ask("many", lambda: gate.wait(20)))
    await until(lambda: threads._places._free == 1)
    left.cancel()
    more = [asyncio.create_task(ask("many", lambda: gate.wait(20))) for _ in range(3)]
    await asyncio.wait({left})
    assert await asyncio.wait_for(ask("few", lambda: 1), 10) == 1
    gate.set()
    await asyncio.gather(*more)
    threads.close()

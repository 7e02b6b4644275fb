"""Requests of one group start a few at a time and do not delay other groups."""

import asyncio
from collections import Counter

import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.auth import Doorkeeper
from app.config import ApiConfig
from app.middleware import AuthMiddleware
from app.turns import AT_ONCE, LoopTurns, NoTurn
from storage.access.key_store import ApiKeyStore, new_record
from storage.bucket.memory import MemoryObjectStore
from storage.clock import SystemClock

pytestmark = pytest.mark.anyio


class Iterations:
    """Counts the event loop's iterations and the requests that start in each."""

    def __init__(self) -> None:
        self.number = 0
        self.begun: Counter[tuple[str, int]] = Counter()
        self.first: dict[str, int] = {}

    def begin(self, what: str) -> None:
        self.begun[what, self.number] += 1
        self.first.setdefault(what, self.number)

    async def count(self) -> None:
        while True:
            self.number += 1
            await asyncio.sleep(0)


@pytest.fixture
async def iterations() -> Iterations:
    return Iterations()


async def test_a_few_requests_start_in_each_iteration(iterations: Iterations) -> None:
    """Requests of a group start in order, a few per loop iteration, and a cancelled request takes no turn."""
    turns, order = LoopTurns(), list[int]()

    async def request(number: int) -> None:
        await turns.turn("a")
        iterations.begin("a")
        order.append(number)

    counting = asyncio.create_task(iterations.count())
    requests = [asyncio.create_task(request(number)) for number in range(20)]
    await asyncio.sleep(0)
    requests[9].cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    counting.cancel()
    assert order == [number for number in range(20) if number != 9]
    assert max(iterations.begun.values()) == AT_ONCE
    assert turns.is_idle() or await _idle(turns)


async def _idle(turns: LoopTurns) -> bool:
    for _ in range(3):
        await asyncio.sleep(0)
    return turns.is_idle()


async def test_busy_clients_of_one_tenant_delay_no_other(iterations: Iterations) -> None:
    """A request of another tenant and a health probe start at once behind a burst from one tenant and from clients
    without a key.
    """
    store = ApiKeyStore(MemoryObjectStore(SystemClock()), SystemClock())
    keys = {}
    for tenant in ("busy", "another"):
        keys[tenant], record = new_record(tenant, now=SystemClock().now())
        await store.add(record)
    door = Doorkeeper(store, ApiConfig(api_key=None), SystemClock())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        iterations.begin(scope["client"])
        await Response()(scope, receive, send)

    middleware = AuthMiddleware(app, door=door)

    async def request(client: str, path: str, key: str = "") -> None:
        headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "client": client}
        await middleware(scope, _receive, _send)

    for key in keys.values():  # the first request of a key reads the bucket
        await request("warm", "/v1/jobs", key)
    counting = asyncio.create_task(iterations.count())
    busy = [request("busy", "/v1/limits", keys["busy"]) for _ in range(50)]
    refused = [request("refused", "/v1/limits", "wrong") for _ in range(50)]
    public = [request("public", "/problems") for _ in range(50)]
    last = [request("another", "/v1/jobs", keys["another"]), request("probe", "/health")]
    await asyncio.gather(*busy, *public, *refused, *last)
    counting.cancel()
    assert max(count for (client, _), count in iterations.begun.items()) <= AT_ONCE
    assert iterations.first["another"] == iterations.first["probe"] == iterations.first["busy"]
    assert iterations.number >= 50 / AT_ONCE


async def _receive() -> Message:
    return {"type": "http.request", "body": b""}


async def _send(_: Message) -> None:
    return


async def test_the_requests_that_wait_are_limited() -> None:
    """A group has a limit for the requests that wait for their turn, which says nothing about other groups."""
    turns = LoopTurns(most_waiting=3)
    waiting = [asyncio.create_task(turns.turn("a")) for _ in range(AT_ONCE + 4)]
    other = asyncio.create_task(turns.turn("b"))
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    await other
    assert [type(one) for one in ended] == [*[type(None)] * (AT_ONCE + 3), NoTurn]

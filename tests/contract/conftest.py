"""Fixtures that most contract tests share: the HTTP API, the webhook deliverer and the Python clients."""

from collections.abc import AsyncIterator

import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from tests.support.api_server import Api, running_api
from tests.support.clients import OpenClient, blocking, for_asyncio
from tests.support.post import Post


@pytest.fixture
async def api(objects: ObjectStore, clock: ManualClock) -> AsyncIterator[Api]:
    async with running_api(objects, clock) as api:
        yield api


@pytest.fixture
async def memory_api(clock: ManualClock) -> AsyncIterator[Api]:
    async with running_api(MemoryObjectStore(clock), clock) as api:
        yield api


@pytest.fixture
def post(objects: ObjectStore, clock: ManualClock) -> Post:
    return Post(objects, clock)


@pytest.fixture(params=[blocking, for_asyncio], ids=["blocking", "asyncio"])
def open_client(request: pytest.FixtureRequest) -> OpenClient:
    opens: OpenClient = request.param
    return opens

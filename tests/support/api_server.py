"""The HTTP API over given stores, on a real server in the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from app.asgi import create_app
from app.config import ApiConfig
from app.services import Fetcher, Services
from infra.compose.api import api_services
from infra.compose.stores import make_stores
from infra.settings import Settings
from storage.access.key_store import DEFAULT_SCOPES, KeyScope, new_record
from storage.bucket.objects import ObjectStore
from storage.clock import Clock
from storage.errors import FetchFailed, FetchRefused
from storage.intake.fetch import Meter
from storage.jobs.models import Output
from storage.jobs.queue import JobQueue
from storage.launcher import Launcher, MemoryLauncher
from storage.signal import MemorySignal
from storage.stores import Stores
from tests.support.plain_http import NO_TLS

KEY = "test-key"
SETTINGS = Settings(bucket="tests")
"""Immutable, and made once, because a thousand tests would spend 4 ms on it."""
STOP_S = 1.0
"""The time that an open request gets to end when its test is over."""
BLUE: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}},
}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


class CannedFetcher:
    """Responds by the last part of the URL, as the real fetcher would."""

    async def fetch(self, url: str, path: Path, *, meter: Meter, max_bytes: int) -> int:
        match url.rsplit("/", 1)[-1]:
            case "private":
                raise FetchRefused("destination refused: an address that is not public")
            case "down":
                raise FetchFailed("the server answered 500")
        await meter.expect(len(PNG))
        await meter.receive(len(PNG))
        path.write_bytes(PNG)
        return len(PNG)


def unmetered() -> Meter:
    """Return a meter for a fetch without a quota."""

    async def reserve(_: int) -> bool:
        return True

    return Meter(reserve)


@dataclass(frozen=True, slots=True)
class Api:
    """A running API and its stores."""

    client: httpx.AsyncClient
    services: Services
    stores: Stores
    app: Starlette

    @property
    def queue(self) -> JobQueue:
        return self.stores.queue

    @property
    def objects(self) -> ObjectStore:
        return self.stores.objects

    async def client_of(self, tenant: str, *scopes: KeyScope, **fields: Any) -> httpx.AsyncClient:
        """Return a client with a new key of this tenant. The caller closes it."""
        key = await self.new_key(tenant, *scopes, **fields)
        return client_of(str(self.client.base_url), key)

    async def new_key(self, tenant: str, *scopes: KeyScope, **fields: Any) -> str:
        now = self.stores.clock.now()
        key, record = new_record(tenant, now=now, scopes=scopes or DEFAULT_SCOPES, **fields)
        await self.stores.api_keys.add(record)
        return key

    async def keys(self) -> tuple[str, ...]:
        await self.stores.jobs.settled()
        return (await self.objects.list("", limit=1000)).keys


@asynccontextmanager
async def running_api(
    objects: ObjectStore,
    clock: Clock,
    config: ApiConfig | None = None,
    launcher: Launcher | None = None,
    settings: Settings | None = None,
    fetcher: Fetcher | None = None,
) -> AsyncIterator[Api]:
    signal, settings = MemorySignal(), settings or SETTINGS
    stores = make_stores(settings, objects, signal, clock)
    services = replace(
        api_services(settings, stores, launcher or MemoryLauncher()),
        config=config or ApiConfig(api_key=KEY),
        fetcher=fetcher or CannedFetcher(),
    )
    app = create_app(services)
    async with serving(app) as url, client_of(url, KEY) as client:
        yield Api(client, services, stores, app)


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Yield the URL of an app on uvicorn's protocol, without its `Server`, which sleeps 0.2 s before it stops."""
    config, state = uvicorn.Config(app, log_config=None, lifespan="off"), ServerState()
    config.load()

    def connection() -> asyncio.Protocol:
        return config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for one in list(state.connections):
            one.shutdown()
        if state.tasks:
            _, late = await asyncio.wait(state.tasks, timeout=STOP_S)
            for task in late:
                task.cancel()
        await server.wait_closed()


def client_of(url: str, key: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=30, verify=NO_TLS)


async def submit(api: Api, **fields: Any) -> dict[str, Any]:
    response = await api.client.post("/v1/jobs", json={"workflow": BLUE, **fields})
    assert response.status_code == 202, response.text
    accepted: dict[str, Any] = response.json()
    return accepted


async def work(api: Api, *outputs: Output) -> None:
    """Claim the best job and complete it as a worker would."""
    claimed = await api.queue.claim("default", "w")
    assert claimed is not None
    now = api.stores.clock.now()
    await api.stores.jobs.evolve_from(claimed, lambda r: r.complete(attempt=r.attempt, now=now, outputs=outputs))

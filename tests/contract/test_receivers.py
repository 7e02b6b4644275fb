"""Allowed destinations of events: one rule, applied to the URL at submission and to the address at delivery."""

import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from app.config import ApiConfig
from infra.compose.api import api_services
from infra.compose.deliverer import dispatcher, webhook_transport
from infra.compose.stores import make_stores
from infra.settings import Settings
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.errors import FetchFailed, FetchRefused
from storage.index_keys import EventRef
from storage.intake.fetch import RemoteFetcher
from storage.intake.ssrf import Destinations
from storage.intake.ssrf_transport import PinnedTransport
from storage.launcher import MemoryLauncher
from storage.signal import MemorySignal
from storage.webhooks.receivers import SEVERAL_TENANTS
from storage.webhooks.signing import new_secret
from tests.support.api_server import BLUE, KEY, Api, running_api, unmetered

pytestmark = pytest.mark.anyio

OWN = "port {port} of this machine belongs to this deployment itself"
PRIVATE = [
    "http://10.0.0.1/",
    "http://192.168.1.1/hook",
    "https://172.16.0.9/",
    "http://169.254.169.254/latest",
    "http://100.64.0.1/",
    "http://0.0.0.0/",
    "http://[::]/",
    "http://[fd00::1]/",
    "http://[fe80::1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://127.0.0.1/",
    "http://127.9.9.9/",
    "http://127.0.0.1./",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://a.localhost/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://0x7f000001/",
    "http://example.com:8080/",
    "https://example.com:22/",
    "https://example.com:80/",
    "http://93.184.215.14:8080/",
    "http://93.184.215.14%00/",
    "http://a%2eb/",
    "http://[::1%25lo]/",
]


class Server:
    """A receiver of events on this machine; `requests` are the paths that were requested."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        self.requests.append(request.path)
        if request.path == "/elsewhere":
            return web.Response(status=302, headers={"location": request.query["to"]})
        return web.Response(status=204)


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server, app = Server(), web.Application()
    app.router.add_route("*", "/{path:.*}", server.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolves every name that ends in .test to this machine."""
    known = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        return known("127.0.0.1" if str(name).endswith(".test") else host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def settings(**fields: Any) -> Settings:
    return Settings(bucket="tests", webhook_secret=new_secret(), api_key=KEY, **fields)


@asynccontextmanager
async def api_of(used_settings: Settings, clock: ManualClock) -> AsyncIterator[Api]:
    config = ApiConfig(api_key=KEY, webhook_test_wait_s=0.0)
    async with running_api(MemoryObjectStore(clock), clock, config, settings=used_settings) as api:
        yield api


async def delivered(api: Api, used_settings: Settings, tenant: str, url: str) -> tuple[str, str | None]:
    """The status of a test event that was accepted earlier, and the reason if it was given up."""
    ref: EventRef = await api.stores.deliveries.test(tenant, url, str(uuid.uuid4()))
    await dispatcher(used_settings, api.stores, webhook_transport(used_settings, api.stores)).sweep()
    stored = await api.stores.deliveries.find(ref)
    assert stored is not None
    return stored.record.status, stored.record.reason


async def test_an_invalid_host_name_is_refused(clock: ManualClock) -> None:
    """A host that httpx cannot parse is refused, and an event to it becomes a dead letter."""
    used_settings, url = settings(), "http://xn--localhost/hook"
    async with api_of(used_settings, clock) as api:
        refused = await api.client.post("/v1/webhooks/test", json={"url": url})
        status, _ = await delivered(api, used_settings, "default", url)
    assert (refused.status_code, refused.json()["type"], status) == (422, "/problems/webhook-refused", "dead")


@pytest.mark.parametrize("url", PRIVATE)
async def test_forbidden_destinations_are_refused_at_submission(clock: ManualClock, url: str) -> None:
    """Private and loopback addresses in every form, and other ports, are refused with the delivery's own message."""
    used_settings = settings()
    async with api_of(used_settings, clock) as api:
        refused = await api.client.post("/v1/webhooks/test", json={"url": url})
        status, reason = await delivered(api, used_settings, "default", url)
    problem = refused.json()
    assert (refused.status_code, problem["type"], problem["pointer"]) == (422, "/problems/webhook-refused", "/url")
    assert (status, reason) == ("dead", problem["detail"])


SUBMISSIONS = {
    "job": ("/v1/jobs", {"workflow": BLUE, "webhook_url": "http://10.0.0.1/"}, "/webhook_url"),
    "batch": ("/v1/batches", {"workflow": BLUE, "input_sets": [[]], "webhook_url": "http://10.0.0.1/"}, "/webhook_url"),
    "batch of jobs": ("/v1/batches", {"jobs": [{"workflow": BLUE}], "webhook_url": "http://10.0.0.1/"}, "/webhook_url"),
    "job of a batch": (
        "/v1/batches",
        {"jobs": [{"workflow": BLUE}, {"workflow": BLUE, "webhook_url": "http://10.0.0.1/"}]},
        "/jobs/1/webhook_url",
    ),
    "named": ("/v1/workflows/words/jobs", {"webhook_url": "http://10.0.0.1/"}, "/webhook_url"),
}


@pytest.mark.parametrize("kind", SUBMISSIONS)
async def test_every_submission_refuses_forbidden_destinations(clock: ManualClock, kind: str) -> None:
    """Every kind of submission refuses a private address with a pointer, and stores nothing."""
    path, document, where = SUBMISSIONS[kind]
    async with api_of(settings(), clock) as api:
        before = await api.keys()
        refused = await api.client.post(path, json=document)
        assert await api.keys() == before
    problem = refused.json()
    assert (problem["type"], problem["pointer"]) == ("/problems/webhook-refused", where)
    assert problem["detail"] == "destination refused: '10.0.0.1' has an address that is not public"


async def test_public_receivers_are_accepted(clock: ManualClock) -> None:
    """Public receivers are accepted by name or address, because names are resolved only at delivery."""
    async with api_of(settings(webhook_loopback="one-tenant"), clock) as api:
        for url in ("https://example.com/hook", "http://93.184.215.14/", "https://[2606:4700::1]/", "http://no.such/"):
            accepted = await api.client.post("/v1/jobs", json={"workflow": BLUE, "webhook_url": url})
            assert accepted.status_code == 202, accepted.text


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("loopback", ["one-tenant", "true"])
async def test_no_event_reaches_a_port_of_the_deployment(clock: ManualClock, loopback: str) -> None:
    """No event reaches a port of this deployment: such URLs are refused, and such names lead to dead letters."""
    async with serving() as own:
        port = own.port
        used_settings = settings(webhook_loopback=loopback, refused_ports=(port,))
        literal = ("127.0.0.1", "127.9.9.9", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]")  # noqa: S104  nothing is bound
        async with api_of(used_settings, clock) as api:
            for host in literal:
                refused = await api.client.post("/v1/webhooks/test", json={"url": f"http://{host}:{port}/"})
                assert refused.json()["detail"] == f"destination refused: {OWN.format(port=port)}", host
            accepted = await api.client.post("/v1/webhooks/test", json={"url": f"http://own.test:{port}/"})
            assert accepted.status_code == 202
            found = await delivered(api, used_settings, "default", f"http://own.test:{port}/")
            assert found == ("dead", f"destination refused: {OWN.format(port=port)}")
        assert own.requests == []


async def test_ports_in_the_settings_belong_to_the_deployment(clock: ManualClock) -> None:
    """The local ports of the bucket, the engine and the API are refused."""
    used_settings = settings(
        webhook_loopback="true",
        s3_endpoint="http://127.0.0.1:9000",
        engine="http://localhost:8188",
        public_url="http://127.0.0.1:8000",
    )
    async with api_of(used_settings, clock) as api:
        for port in (9000, 8188, 8000):
            refused = await api.client.post("/v1/webhooks/test", json={"url": f"http://127.0.0.1:{port}/"})
            assert refused.json()["detail"] == f"destination refused: {OWN.format(port=port)}"
        other = await api.client.post("/v1/webhooks/test", json={"url": "http://127.0.0.1:9001/"})
        assert other.status_code == 202


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/", "http://own.test:{port}/"])
async def test_no_fetch_reaches_a_port_of_the_deployment(tmp_path: Path, target: str) -> None:
    """No fetch reaches a port of this deployment, not even by a redirect."""
    async with serving() as site, serving() as own:
        destinations = Destinations(
            ports=frozenset({site.port, own.port}),
            is_allowed=lambda address: address.is_loopback,
            own_ports=frozenset({own.port}),
        )
        fetcher = RemoteFetcher(transport=lambda: PinnedTransport(destinations))
        url = target.format(port=own.port)
        for fetched_url in (url, f"http://127.0.0.1:{site.port}/elsewhere?to={url}"):
            with pytest.raises(FetchRefused, match=OWN.format(port=own.port)):
                await fetcher.fetch(fetched_url, tmp_path / "file", meter=unmetered(), max_bytes=2000)
        assert (own.requests, site.requests) == ([], ["/elsewhere"])


@pytest.mark.usefixtures("names")
async def test_a_fetch_reaches_listed_ports_of_loopback_alone(tmp_path: Path) -> None:
    """A fetch reaches a listed loopback port, and no other port, no own port and no other address of the machine."""
    async with serving() as site, serving() as other, serving() as own:
        listed = frozenset({site.port, own.port})
        fetcher = RemoteFetcher(own_ports=frozenset({own.port}), loopback_ports=listed)

        async def reason(url: str) -> str:
            with pytest.raises((FetchRefused, FetchFailed)) as refused:
                await fetcher.fetch(url, tmp_path / "file", meter=unmetered(), max_bytes=2000)
            return str(refused.value)

        for host in ("127.0.0.1", "localhost", "own.test"):
            assert "destination refused" not in await reason(f"http://{host}:{site.port}/nothing")
        assert site.requests == ["/nothing"] * 3
        for host in ("127.0.0.1", "localhost", "own.test"):
            assert f"port {other.port}" in await reason(f"http://{host}:{other.port}/")
            assert OWN.format(port=own.port) in await reason(f"http://{host}:{own.port}/")
            redirect = f"http://127.0.0.1:{site.port}/elsewhere?to=http://{host}"
            assert f"port {other.port}" in await reason(f"{redirect}:{other.port}/")
            assert OWN.format(port=own.port) in await reason(f"{redirect}:{own.port}/")
        assert "not public" in await reason(f"http://10.0.0.1:{site.port}/")
        assert f"port {site.port}" in await reason(f"http://8.8.8.8:{site.port}/")
        assert "not public" in await reason("http://127.0.0.1/")
        assert (other.requests, own.requests) == ([], [])


@pytest.mark.parametrize(("is_of_up", "is_reached"), [(True, True), (False, False)])
async def test_only_the_api_of_up_fetches_from_loopback(
    clock: ManualClock, tmp_path: Path, is_of_up: bool, is_reached: bool
) -> None:
    """The setting has an effect in the API of `up`, and none elsewhere."""
    async with serving() as site:
        used = settings(fetch_loopback_ports=(site.port,))
        stores = make_stores(used, MemoryObjectStore(clock), MemorySignal(), clock)
        fetcher = api_services(used, stores, MemoryLauncher(), is_of_up=is_of_up).fetcher
        url = f"http://127.0.0.1:{site.port}/nothing"
        with pytest.raises((FetchRefused, FetchFailed)):
            await fetcher.fetch(url, tmp_path / "file", meter=unmetered(), max_bytes=2000)
        assert bool(site.requests) == is_reached


@pytest.mark.usefixtures("names")
async def test_a_second_tenant_forbids_local_receivers(clock: ManualClock) -> None:
    """Local receivers are refused for all tenants while there are two, unless the setting allows them."""
    used_settings = settings(webhook_loopback="one-tenant")
    async with serving() as receiver, api_of(used_settings, clock) as api:
        literal, by_name = f"http://127.0.0.1:{receiver.port}/hook", f"http://receiver.test:{receiver.port}/hook"
        assert (await api.client.post("/v1/webhooks/test", json={"url": literal})).status_code == 202
        assert await delivered(api, used_settings, "default", by_name) == ("delivered", None)
        receiver.requests.clear()

        async with await api.client_of("acme", expires_at=clock.now() + timedelta(hours=1)) as acme:
            clock.set(clock.now() + timedelta(seconds=6))
            for client in (api.client, acme):
                refused = await client.post("/v1/webhooks/test", json={"url": literal})
                assert refused.json()["detail"] == f"destination refused: {SEVERAL_TENANTS}"
        for tenant in ("default", "acme"):
            assert await delivered(api, used_settings, tenant, by_name) == (
                "dead",
                f"destination refused: {SEVERAL_TENANTS}",
            )
        assert receiver.requests == []
        for allowed in (settings(webhook_loopback="true"), settings(webhook_loopback="True")):
            await delivered(api, allowed, "acme", by_name)
        assert receiver.requests != []

        clock.set(clock.now() + timedelta(hours=2))
        assert (await api.client.post("/v1/webhooks/test", json={"url": literal})).status_code == 202
        assert (await delivered(api, used_settings, "acme", by_name))[0] == "dead"

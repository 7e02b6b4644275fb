"""The embedded S3 server keeps its data, refuses strangers and leaves nothing running."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from infra.local.s3_server import LocalS3Server
from storage.bucket.s3 import S3ObjectStore
from tests.support.plain_http import NO_TLS

pytestmark = pytest.mark.anyio

ORIGIN = "https://shop.example"


def a_server(folder: Path) -> LocalS3Server:
    return LocalS3Server(data_dir=folder, bucket="own", access_key="OWNACCESSKEY", secret_key="own-secret-key")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[LocalS3Server]:
    server = a_server(tmp_path / "s3")
    await server.start()
    yield server
    await server.stop()


def processes_of(folder: Path) -> list[psutil.Process]:
    """The processes whose command line names the folder."""
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if any(str(folder) in part for part in process.info["cmdline"] or ())]


def listening_ports(server: LocalS3Server) -> set[int]:
    """The listening ports of the server's whole process tree."""
    assert server.pid is not None
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    found = (c for process in family for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN)
    return {c.laddr.port for c in found}


async def write(server: LocalS3Server, key: str) -> None:
    objects = S3ObjectStore(server.config())
    await objects.put(key, key.encode())
    await objects.close()


async def read(server: LocalS3Server, key: str) -> bytes:
    objects = S3ObjectStore(server.config())
    try:
        return (await objects.get(key)).body
    finally:
        await objects.close()


@pytest.mark.parametrize("victim", ["server", "guard"])
async def test_data_survive_a_kill(server: LocalS3Server, victim: str) -> None:
    """After a SIGKILL of the server or its supervisor, a new start has the same data at the same URL."""
    await write(server, "kept/1")
    endpoint, guard = server.endpoint_url, server.pid
    assert guard is not None
    (child,) = psutil.Process(guard).children()
    os.kill(child.pid if victim == "server" else guard, signal.SIGKILL)
    async with asyncio.timeout(20):
        while server.is_alive():  # noqa: ASYNC110  a process that ends sets no event
            await asyncio.sleep(0.05)
    await server.start()
    assert server.endpoint_url == endpoint
    assert await read(server, "kept/1") == b"kept/1"
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


async def test_presigned_urls_survive_a_restart(server: LocalS3Server, tmp_path: Path) -> None:
    """A later run in the same folder uses the same port, so that a presigned URL still works."""
    await write(server, "kept/1")
    objects = S3ObjectStore(server.config())
    url = objects.presign_get("kept/1", expires_s=600, filename="k", content_type="text/plain").url
    await objects.close()
    await server.stop()
    assert processes_of(tmp_path) == []
    again = a_server(tmp_path / "s3")
    await again.start()
    try:
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            assert (await client.get(url)).text == "kept/1"
    finally:
        await again.stop()


async def test_a_port_in_use_is_avoided(tmp_path: Path) -> None:
    """The server uses another port if a program listens on that of its last run."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        (tmp_path / "s3.port").write_text(str(taken))
        assert urlsplit(a_server(tmp_path).endpoint_url).port != taken


async def test_every_port_is_known(server: LocalS3Server) -> None:
    """`ports` contains every listening port, and a restart does not change it."""
    known = server.ports
    assert listening_ports(server) <= known
    await server.stop()
    await server.start()
    assert server.ports == known
    assert listening_ports(server) <= known


async def test_a_start_replaces_a_port_in_use(tmp_path: Path) -> None:
    """A start replaces a port that another program has taken since it was chosen, so that `ports` remains right."""
    server = a_server(tmp_path / "s3")
    with socket.create_server(("127.0.0.1", max(server.ports))):
        await server.start()
        try:
            assert listening_ports(server) <= server.ports
        finally:
            await server.stop()


async def test_unauthenticated_requests_are_refused(server: LocalS3Server) -> None:
    """The server refuses requests without credentials, listens only on loopback, and has no secret in command lines."""
    assert server.pid is not None
    async with httpx.AsyncClient(base_url=server.endpoint_url, verify=NO_TLS) as client:
        assert (await client.get("/own/?list-type=2")).status_code == 403
        assert (await client.put("/own/x", content=b"x")).status_code == 403
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    listening = {c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    assert not [part for process in family for part in process.cmdline() if "own-secret-key" in part]


async def test_a_page_of_any_origin_may_upload(server: LocalS3Server) -> None:
    """Pages of any origin may use presigned URLs."""
    headers = {"access-control-request-method": "PUT", "access-control-request-headers": "content-type,if-none-match"}
    async with httpx.AsyncClient(base_url=server.endpoint_url, verify=NO_TLS) as client:
        answer = await client.options("/own/x", headers=headers | {"origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN

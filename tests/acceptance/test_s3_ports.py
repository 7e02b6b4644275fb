"""No port of the embedded S3 server executes or reveals anything for a client without its keys."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpclib.client
import httpx
import psutil
import pytest
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError, StreamTerminatedError

from infra.local.host import ANY, LOOPBACK
from infra.local.s3_server import LocalS3Server
from storage.bucket.s3 import S3ObjectStore

pytestmark = pytest.mark.anyio

BUCKET = "own"
KEY = "api-keys/canary.json"
CANARY = b'{"canary": "cf3ec7ba0a53"}'
TIMEOUT_S = 5.0

PATHS = (
    # master
    "/",
    f"/col/delete?collection={BUCKET}",
    "/vol/grow?count=1",
    "/vol/vacuum?garbageThreshold=0.0001",
    "/vol/status",
    "/dir/assign",
    "/dir/status",
    "/dir/lookup?volumeId=1",
    "/cluster/status",
    "/cluster/healthz",
    "/submit",
    "/stats/health",
    "/1,01637037d6",
    # volume server
    "/status",
    "/ui/index.html",
    "/delete",
    "/stats/disk",
    # filer
    f"/buckets/{BUCKET}/{KEY}",
    f"/buckets/{BUCKET}/{KEY}?metadata=true",
    f"/buckets/{BUCKET}?recursive=true",
    "/buckets/?pretty=y",
    "/topics/.system",
    "/etc/iam/identity.json",
    # S3 and its IAM
    f"/{BUCKET}",
    f"/{BUCKET}?list-type=2",
    f"/{BUCKET}/{KEY}",
    f"/{BUCKET}?delete",
    "/?Action=ListUsers",
    "/?Action=CreateAccessKey&UserName=admin",
    # administration and diagnostics
    "/admin",
    "/api/config",
    "/api/s3/buckets",
    "/debug/pprof/goroutine?debug=2",
    "/metrics",
)
METHODS = ("GET", "POST", "PUT", "DELETE")


def text_field(number: int, value: str) -> bytes:
    """A protobuf field with a short text."""
    return bytes([number << 3 | 2, len(value)]) + value.encode()


LIST_KEYS = text_field(1, f"/buckets/{BUCKET}/api-keys")
DELETE_KEYS = text_field(1, f"/buckets/{BUCKET}") + text_field(2, "api-keys") + bytes([0x20, 1, 0x28, 1])
"""A DeleteEntryRequest that includes the data, recursively."""

CALLS = (
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", text_field(7, "*")),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", text_field(7, "*")),
    ("/master_pb.Seaweed/VolumeList", b""),
    ("/master_pb.Seaweed/CollectionList", b"\x08\x01"),
    ("/master_pb.Seaweed/GetMasterConfiguration", b""),
    ("/filer_pb.SeaweedFiler/GetFilerConfiguration", b""),
    ("/filer_pb.SeaweedFiler/ListEntries", LIST_KEYS),
    ("/volume_server_pb.VolumeServer/VolumeServerStatus", b""),
    ("/filer_pb.SeaweedFiler/DeleteEntry", DELETE_KEYS),
    ("/volume_server_pb.VolumeServer/DeleteCollection", text_field(1, BUCKET)),
    ("/master_pb.Seaweed/CollectionDelete", text_field(1, BUCKET)),
)
"""Reads before deletions, all of which need no authentication on an open port."""


class BytesCodec:
    """A gRPC codec that keeps messages as bytes."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, _: object) -> bytes:
        return message

    def decode(self, data: bytes, _: object) -> bytes:
        return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s3")


@pytest.fixture(scope="module", params=[LOOPBACK, ANY])
async def server(folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[LocalS3Server]:
    server = LocalS3Server(
        data_dir=folder, bucket=BUCKET, access_key="OWNKEY", secret_key="own-secret-key", host=request.param
    )
    await server.start()
    yield server
    await server.stop()


def listening_ports(server: LocalS3Server) -> set[int]:
    assert server.pid is not None
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    found = (c for process in family for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN)
    return {c.laddr.port for c in found}


async def all_ports(server: LocalS3Server) -> set[int]:
    """All listening ports, once the administrator's ports are open, some time after the server is usable."""
    async with asyncio.timeout(60):
        while (found := listening_ports(server)) != server.ports:  # noqa: ASYNC110  another process opens them
            await asyncio.sleep(0.1)
    return found


def without_certificate(*protocols: str) -> ssl.SSLContext:
    """The TLS context of a client that trusts every server and has no certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    return context


def requests() -> Iterator[tuple[str, str]]:
    yield from ((method, path) for method in METHODS for path in PATHS)


async def http_answers(port: int, scheme: str) -> AsyncIterator[tuple[str, httpx.Response]]:
    """All responses on this port to an HTTP client without keys and certificates."""
    base = f"{scheme}://127.0.0.1:{port}"
    client = httpx.AsyncClient(
        base_url=base, verify=without_certificate("http/1.1"), timeout=TIMEOUT_S, trust_env=False
    )
    async with client:
        for method, path in requests():
            try:
                answer = await client.request(method, path)
            except (httpx.TransportError, ssl.SSLError):
                return  # refused below HTTP, before the path was read, so the other requests would be too
            yield f"{method} {base}{path}", answer


def is_health_check(request: str, answer: httpx.Response) -> bool:
    """Whether this is the empty response of the S3 port to a health check."""
    return request.startswith("GET ") and request.endswith("/status") and answer.content == b""


async def grpc_answer(port: int, call: str, request: bytes, tls: ssl.SSLContext | None) -> bytes | None:
    """The first message of the response, or None if it is refused."""
    channel = grpclib.client.Channel("127.0.0.1", port, ssl=tls, codec=BytesCodec())  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(TIMEOUT_S):
            async with channel.request(call, Cardinality.STREAM_STREAM, bytes, bytes) as stream:
                await stream.send_message(request, end=True)
                return await stream.recv_message()
    except (GRPCError, StreamTerminatedError, OSError, TimeoutError):
        return None
    finally:
        channel.close()


async def canary_is_intact(server: LocalS3Server) -> bool:
    objects = S3ObjectStore(server.config())
    try:
        return (await objects.get(KEY)).body == CANARY
    finally:
        await objects.close()


async def plant_canary(server: LocalS3Server) -> None:
    objects = S3ObjectStore(server.config())
    await objects.put(KEY, CANARY)
    await objects.close()


async def test_no_port_accepts_http(server: LocalS3Server) -> None:
    """No port accepts any command path with any method over HTTP or HTTPS, and nothing is read or deleted."""
    await plant_canary(server)
    accepted = []
    for port in await all_ports(server):
        for scheme in ("http", "https"):
            async for request, answer in http_answers(port, scheme):
                assert CANARY not in answer.content
                if answer.status_code < 400 and not is_health_check(request, answer):
                    accepted.append((request, answer.status_code, answer.content[:80]))
    assert accepted == []
    assert await canary_is_intact(server)


async def test_no_port_accepts_grpc(server: LocalS3Server) -> None:
    """No port answers any gRPC call, with or without TLS, and the bucket is unchanged."""
    await plant_canary(server)
    ports = await all_ports(server)
    accepted = []
    for call, request in CALLS:
        for tls in (None, without_certificate("h2")):
            answers = await asyncio.gather(*(grpc_answer(port, call, request, tls) for port in ports))
            accepted += [
                (port, call, answer) for port, answer in zip(ports, answers, strict=True) if answer is not None
            ]
    assert accepted == []
    assert await canary_is_intact(server)


async def test_keys_of_the_parts_are_private(server: LocalS3Server, folder: Path) -> None:
    """Other users of the machine can neither read the server's internal key nor use its sockets."""
    tls = folder / "tls"
    assert tls.stat().st_mode & 0o077 == 0
    assert {path.name for path in tls.iterdir() if path.stat().st_mode & 0o077} == set()
    await all_ports(server)
    assert server.pid is not None
    (weed,) = psutil.Process(server.pid).children()
    sockets = {Path(str(c.laddr)) for c in weed.net_connections("unix")}
    assert sockets
    assert {path for path in sockets if path.is_socket() and path.stat().st_mode & 0o077} == set()


async def test_a_start_creates_a_new_key(server: LocalS3Server, folder: Path) -> None:
    """Each start creates a new internal key, so that a leaked key becomes useless."""
    key = folder / "tls" / "key.pem"
    before = key.read_bytes()
    await server.stop()
    await server.start()
    assert key.read_bytes() != before

"""Requests to user-supplied URLs reach public addresses only."""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpcore
import httpx
import psutil
import pytest
from aiohttp import web

from storage.errors import FetchFailed, FetchRefused
from storage.intake.fetch import CHUNK_BYTES, PIECES_AT_ONCE, RemoteFetcher, _in_chunks
from storage.intake.ssrf import DestinationRefused, Destinations, is_of_this_machine, is_public
from storage.intake.ssrf_transport import (
    MAX_ADDRESSES,
    MAX_HEAD_FIELDS,
    MAX_INTERIM,
    MAX_RESOLVED,
    MIN_READ_BYTES,
    READS_AT_ONCE,
    READS_COUNTED,
    PinnedTransport,
    _GuardedStream,
    pinned_client,
)
from tests.support.api_server import PNG, unmetered

pytestmark = pytest.mark.anyio

PUBLIC = "93.184.215.14"
PRIVATE = """
127.0.0.1 0.0.0.0 10.1.1.1 100.64.0.1 100.100.100.200 169.254.169.254 168.63.129.16 172.31.255.255 192.0.0.1 192.0.2.1
192.168.0.1 198.18.0.1 224.0.0.1 255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::127.0.0.1 ::ffff:0:7f00:1 64:ff9b::7f00:1
64:ff9b::808:808 64:ff9b:1::1 2001::1 2002:7f00:1:: 2001:db8::1 3fff::1 5f00::1 100::1 fc00::1 fd00:ec2::254 fe80::1
fe80::1%eth0 fec0::1 ff02::1 192.88.99.1 203.0.113.7 198.51.100.1 240.0.0.1
169.254.170.2 ::ffff:10.0.0.1 ::ffff:a9fe:a9fe
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_private_addresses_are_not_public(address: str) -> None:
    """Loopback, local, metadata, translated and unassigned ranges are not public."""
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", PUBLIC, "172.32.0.1", "100.128.0.1", "2606:4700::1", "2a00:1450::1", "::ffff:8.8.8.8"],
)
def test_public_addresses_are_public(address: str) -> None:
    """Addresses outside the reserved ranges are public."""
    assert is_public(ipaddress.ip_address(address))


def test_all_addresses_of_this_machine_are_recognised() -> None:
    """The addresses of every interface belong to this machine, and public addresses do not."""
    ours = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6) and "%" not in address.address
    ]
    for text in (*ours, "127.9.9.9", "0.0.0.0", "::", "::1"):  # noqa: S104  nothing is bound
        assert is_of_this_machine(ipaddress.ip_address(text)), text
    for text in (PUBLIC, "2606:4700::1"):
        assert not is_of_this_machine(ipaddress.ip_address(text)), text


class Spy(httpcore.AsyncNetworkBackend):
    """Records the addresses to be dialled and refuses every connection."""

    def __init__(self) -> None:
        self.dialled: list[tuple[str, int]] = []

    async def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        self.dialled.append((host, port))
        raise httpcore.ConnectError("spy")


@pytest.fixture
def spy() -> Spy:
    return Spy()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A fake resolver's table; a name that is not listed resolves to itself."""
    known: dict[str, list[str]] = {}

    def getaddrinfo(host: str | bytes, port: int, *args: Any, **options: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        found = known.get(name, [name])
        family = {address: socket.AF_INET6 if ":" in address else socket.AF_INET for address in found}
        return [(family[address], socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


async def get(url: str, spy: Spy) -> None:
    async with pinned_client(PinnedTransport(Destinations(), backend=spy), timeout_s=5) as client:
        await client.get(url)


async def test_the_checked_address_is_dialled(spy: Spy, answers: dict[str, list[str]]) -> None:
    """The connection goes to the checked address, so a second DNS look-up cannot change it."""
    answers["good.test"] = [PUBLIC]
    with pytest.raises(httpx.ConnectError):
        await get("https://good.test/", spy)
    assert spy.dialled == [(PUBLIC, 443)]


@pytest.mark.parametrize(
    "found",
    [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["10.0.0.1", PUBLIC], ["::ffff:169.254.169.254"], ["64:ff9b::7f00:1"]],
)
async def test_one_private_address_refuses_the_name(spy: Spy, answers: dict[str, list[str]], found: list[str]) -> None:
    """A name with any private address is refused, and no address of it is dialled."""
    answers["mixed.test"] = found
    with pytest.raises(DestinationRefused):
        await get("https://mixed.test/", spy)
    assert spy.dialled == []


@pytest.mark.parametrize(
    "url",
    [
        "http://good.test:8080/",
        "https://good.test:22/",
        "https://good.test:80/",
        "https://u:p@good.test/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://127.1/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:7f00:1]/",
        "https://[fe80::1%25lo]/",
        "https://good.test\\@127.0.0.1/",
        "https://127。0。0。1/",
        "https://0177.0.0.1/",
        "https://[::]/",
        "https://[fd00:ec2::254]/",
        "https://169.254.169.254/latest/meta-data/",
        "ftp://good.test/",
        "file:///etc/passwd",
        "gopher://good.test/",
    ],
)
async def test_tricky_urls_dial_nothing(spy: Spy, answers: dict[str, list[str]], url: str) -> None:
    """URLs with other ports, schemes, credentials or unusual notations of an address are not dialled."""
    answers["good.test"] = [PUBLIC]
    with pytest.raises((DestinationRefused, httpx.UnsupportedProtocol, httpx.InvalidURL)):
        await get(url, spy)
    assert spy.dialled == []


async def test_proxies_of_the_environment_are_ignored(
    spy: Spy, answers: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxy variables are ignored, because a proxy would bypass the address check."""
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    answers["good.test"] = [PUBLIC]
    with pytest.raises(httpx.ConnectError):
        await get("https://good.test/", spy)
    assert spy.dialled == [(PUBLIC, 443)]


async def test_connection_attempts_are_bounded(spy: Spy, answers: dict[str, list[str]]) -> None:
    """A name with thirty addresses causes only a few connection attempts."""
    answers["many.test"] = [f"93.184.215.{n}" for n in range(MAX_RESOLVED)]
    with pytest.raises(httpx.ConnectError):
        await get("https://many.test/", spy)
    assert len(spy.dialled) == MAX_ADDRESSES


async def test_a_name_with_thousands_of_addresses_is_refused_unchecked(
    spy: Spy, answers: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with 4,000 addresses is refused unchecked, because the checks would block the event loop."""
    checked: list[str] = []

    async def check_address(_: Destinations, host: str, *__: Any) -> None:
        checked.append(host)

    monkeypatch.setattr(Destinations, "check_address", check_address)
    answers["many.test"] = [f"93.184.{n // 256}.{n % 256}" for n in range(4_000)]
    with pytest.raises(DestinationRefused, match="4000 addresses"):
        await get("https://many.test/", spy)
    assert (checked, spy.dialled) == ([], [])


# Downloads from a real server on loopback, which the injected check permits.


@pytest.fixture
async def site() -> AsyncIterator[str]:
    async def serve(request: web.Request) -> web.StreamResponse:
        match request.path:
            case "/picture":
                return web.Response(body=b"a cookie came" if "cookie" in request.headers else PNG)
            case "/text":
                return web.Response(text="hello")
            case "/big":
                return web.Response(body=PNG + bytes(5000))
            case "/packed":
                return web.Response(body=PNG, headers={"content-encoding": "gzip"})
            case "/elsewhere":
                return web.Response(status=302, headers={"location": "http://10.0.0.1/"})
            case path if path.startswith("/hops/"):
                left = int(path.rsplit("/", 1)[1])
                location = f"/hops/{left - 1}" if left > 1 else "/picture"
                return web.Response(status=302, headers={"location": location, "set-cookie": "c=1; Path=/"})
            case "/loop":
                return web.Response(status=302, headers={"location": "/loop"})
        return web.Response(status=500)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def fetcher(site: str) -> RemoteFetcher:
    port = int(site.rsplit(":", 1)[1])
    here = Destinations(ports=frozenset({port}), is_allowed=lambda address: str(address) == "127.0.0.1")
    return RemoteFetcher(transport=lambda: PinnedTransport(here))


async def fetched_from(site: str, url: str, tmp_path: Path) -> int:
    return await fetcher(site).fetch(url, tmp_path / "file", meter=unmetered(), max_bytes=2000)


async def test_a_picture_is_fetched(site: str, tmp_path: Path) -> None:
    """A picture is stored, and its size is returned."""
    assert await fetched_from(site, f"{site}/picture", tmp_path) == len(PNG)
    assert (tmp_path / "file").read_bytes() == PNG


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("text", FetchRefused),
        ("big", FetchRefused),
        ("packed", FetchRefused),
        ("elsewhere", FetchRefused),
        ("loop", FetchFailed),
        ("broken", FetchFailed),
    ],
)
async def test_an_unsuitable_response_is_refused(site: str, tmp_path: Path, path: str, error: type[Exception]) -> None:
    """A response that is not media, too large, compressed, failing or redirected badly is refused."""
    with pytest.raises(error):
        await fetched_from(site, f"{site}/{path}", tmp_path)


async def test_three_redirects_are_followed_and_no_fourth(site: str, tmp_path: Path) -> None:
    """Three redirects are followed, and a fourth fails."""
    fetched = await fetched_from(site, f"{site}/hops/3", tmp_path)
    assert fetched == len(PNG)
    with pytest.raises(FetchFailed, match="more than 3 redirects"):
        await fetched_from(site, f"{site}/hops/4", tmp_path)


async def test_a_cookie_of_a_redirect_is_not_sent(site: str, tmp_path: Path) -> None:
    """A cookie that a redirect sets is not sent, not even to the same host."""
    fetched = await fetched_from(site, f"{site}/hops/1", tmp_path)
    assert fetched == len(PNG)


async def test_loopback_is_refused_by_default(site: str, tmp_path: Path) -> None:
    """The default fetcher refuses loopback addresses."""
    with pytest.raises(FetchRefused):
        await RemoteFetcher().fetch(f"{site}/picture", tmp_path / "file", meter=unmetered(), max_bytes=2000)


class OneRead(httpcore.AsyncNetworkStream):
    """A server whose whole response arrives in one read."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        answer, self._answer = self._answer, b""
        return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 103 Early Hints\r\nlink: <a-style-sheet.css>; rel=preload\r\n\r\n" * (MAX_INTERIM + 1), "interim"),
        (b"HTTP/1.1 102 A\n\n" * 1_000, "interim"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, "a head of more"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000 + b"\r\n", "a head of more"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000, "fields"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (MAX_HEAD_FIELDS + 1) + b"\r\n", "fields"),
        (b"HTTP/1.1 200 OK\n" + b"a: b\n b\n" * MAX_HEAD_FIELDS + b"\n", "fields"),
        (b"HTTP/1.1 103 A\r\na: b\r\nb: c\r\n\r\n" * 9 + b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 250, "fields"),
    ],
)
async def test_the_size_of_the_response_head_is_bounded(answer: bytes, words: str) -> None:
    """Too many interim responses, too many fields or too large a head are refused before the parser, which is slow."""
    with pytest.raises(httpcore.RemoteProtocolError, match=words):
        await _GuardedStream(OneRead(answer)).read(1_000_000)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100_000])
async def test_a_head_with_the_most_fields_is_accepted(size: int) -> None:
    """A head with as many fields as are allowed is passed on, wherever it is split, and a body may have more lines."""
    answer = b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * MAX_HEAD_FIELDS + b"\r\n" + b"\n" * 10_000
    stream = _GuardedStream(OneRead(b""))
    for start in range(0, len(answer), size):
        stream._check(answer[start : start + size])
    assert stream._is_in_body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("chunks", [b"", b"5;x=y\r\na\n\n\n\n\r\n" * 100, b"a0\r\n" + b"\n" * 160 + b"\r\n"])
async def test_the_number_of_trailer_fields_is_bounded(chunks: bytes, size: int) -> None:
    """Too many trailer fields are refused before they are parsed, wherever the answer is split; data does not count."""

    def check(fields: int) -> None:
        stream, answer = _GuardedStream(OneRead(b"")), CHUNKED + chunks + b"0\r\n" + b"a: b\r\n" * fields
        for start in range(0, len(answer), size):
            stream._check(answer[start : start + size])

    check(MAX_HEAD_FIELDS)
    with pytest.raises(httpcore.RemoteProtocolError, match="trailers"):
        check(MAX_HEAD_FIELDS + 1)


async def test_a_body_is_passed_on_unchanged() -> None:
    """A body after a few interim responses is passed on unchanged, even if it resembles a response."""
    answer = b"HTTP/1.1 103 A\r\n\r\n" * MAX_INTERIM + b"HTTP/1.1 200 OK\r\n\r\n" + b"HTTP/1.1 103 A\r\n\r\n" * 1_000
    assert await _GuardedStream(OneRead(answer)).read(1_000_000) == answer


class Records(httpcore.AsyncNetworkStream):
    """A server whose response has arrived in TLS records of `size` bytes, so that no read suspends."""

    def __init__(self, answer: bytes, size: int) -> None:
        self.answer, self.size, self.reads = answer, size, 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        record, self.answer = self.answer[: self.size], self.answer[self.size :]
        self.reads += 1
        return record


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 90_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"e" * 90_000,
    ],
    ids=["head", "chunk extension"],
)
async def test_a_server_that_sends_single_bytes_is_refused(answer: bytes) -> None:
    """A response in single-byte records is refused after some hundred reads, because each costs as much as a full
    one."""
    records = Records(answer, 1)
    stream = _GuardedStream(records)

    async def read_all() -> None:
        while records.answer:
            await stream.read(65_536)

    with pytest.raises(httpcore.RemoteProtocolError, match="too small pieces"):
        await read_all()
    assert records.reads <= READS_COUNTED


async def test_reading_records_yields_to_other_tasks() -> None:
    """Reading records that have arrived yields to other tasks, and finds the end of the head wherever it is split."""
    answer = b"HTTP/1.1 200 OK\r\na: " + b"b" * 1_000 + b"\r\n\r\n" + b"x" * 1_000_000
    for size in (MIN_READ_BYTES, MIN_READ_BYTES + 1, MIN_READ_BYTES + 2, MIN_READ_BYTES + 3):
        records = Records(answer, size)
        stream, received = _GuardedStream(records), b""
        async with other_turns() as turns:
            while records.answer:
                received += await stream.read(65_536)
            assert turns[0] >= records.reads // READS_AT_ONCE - 2
        assert received == answer


@asynccontextmanager
async def other_turns() -> AsyncIterator[list[int]]:
    """Yield a counter of the turns that another task gets."""
    turns = [0]

    async def other() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    try:
        yield turns
    finally:
        task.cancel()


async def test_reading_a_body_yields_to_other_tasks() -> None:
    """Reading a body in small chunks yields to other tasks and returns every byte."""
    piece = b"x" * 200

    async def body() -> AsyncIterator[bytes]:
        for _ in range(1_000):
            yield piece

    async with other_turns() as turns:
        chunks = [chunk async for chunk in _in_chunks(body())]
        assert turns[0] >= 1_000 // PIECES_AT_ONCE - 2
    assert b"".join(chunks) == piece * 1_000
    assert min(map(len, chunks[:-1])) >= CHUNK_BYTES

"""HTTP to untrusted URLs, which connects only to checked addresses: the storage layer's only HTTP transport.

A name is resolved once, every address must pass the check, and the connection goes to a checked address, below TLS:
URL, Host, SNI and certificate keep the name. So a resolver that returns another address the second time (DNS rebinding)
has no effect. The check runs again for each redirect. Proxies and other settings of the environment are ignored.

Requests share no state: a client and its connections serve one request and its redirects, no cookie is stored, and
Python's TLS clients resume no session by default. So no receiver gets data of another tenant's receiver, and no two
tenants share a connection.
"""

import asyncio
import functools
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

from storage.fair_slots import FairSlots
from storage.intake.ssrf import DestinationRefused, Destinations
from storage.intake.trailers import Trailers, is_chunked

DNS_TIMEOUT_S = 5.0
RESOLVERS, RESOLVERS_OF_TENANT = 64, 8
"""Threads that resolve names, in total and per tenant. The system's resolver cannot be interrupted: a name whose server
does not respond occupies its thread for up to 40 s."""
MAX_ADDRESSES = 4
"""Addresses of a name that are tried."""
MAX_RESOLVED = 32
"""Maximum addresses of a name. Each takes a check of 50 µs, and an answer of a hostile name server has thousands."""
MAX_REDIRECTS = 3
MAX_ERROR = 300
MAX_INTERIM = 16
"""Maximum of 1xx responses before the final one: each takes 100 µs, and a server may send them without end."""
MAX_HEAD_BYTES = 100 * 1024
"""Maximum size of each response head."""
MAX_HEAD_FIELDS = 256
"""Maximum fields of the heads of an answer in all, and of its trailers: each takes 3 µs to parse, and 100 KiB may have
20,000."""
READS_AT_ONCE = 32
"""Reads before other tasks get a turn."""
READS_COUNTED, MIN_READ_BYTES = 512, 128
"""Each so many reads must bring so many bytes on average. Usual servers send a KiB or more in each TLS record."""
_INTERIM = re.compile(rb"HTTP/[0-9]\.[0-9] 1[0-9][0-9]")
_END_OF_HEAD = re.compile(rb"\n\r?\n")
"""The end of a head as defined by h11, which parses the response afterwards."""


_NAMES = FairSlots(RESOLVERS, each=RESOLVERS_OF_TENANT)
_RESOLVING = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="names")


class PinnedTransport(httpx.AsyncHTTPTransport):
    """`tenant` is the tenant of the URLs, for a fair share of the resolver threads."""

    def __init__(
        self, destinations: Destinations, *, tenant: str = "", backend: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        super().__init__(verify=_tls(), trust_env=False)
        self._destinations = destinations
        # httpx has no parameter for the network backend, so its pool is replaced.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_tls(),
            keepalive_expiry=5.0,
            network_backend=_PinnedBackend(destinations, backend or httpcore.AnyIOBackend(), tenant),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._destinations.check_url(request.url)
        return await super().handle_async_request(request)


class _PinnedBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, destinations: Destinations, inner: httpcore.AsyncNetworkBackend, tenant: str) -> None:
        self._destinations = destinations
        self._inner = inner
        self._tenant = tenant

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError(f"no address for {host!r}")
        for address in (await self._checked_addresses(host, port))[:MAX_ADDRESSES]:
            try:
                stream = await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            peer = stream.get_extra_info("server_addr")
            if not peer or ipaddress.ip_address(peer[0]) != ipaddress.ip_address(address):
                await stream.aclose()
                raise DestinationRefused("connected to another address than was checked")
            return _GuardedStream(stream)
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> httpcore.AsyncNetworkStream:
        raise DestinationRefused("a Unix socket")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)

    async def _checked_addresses(self, host: str, port: int) -> list[str]:
        """Resolve a name and return its addresses; one forbidden address refuses the whole name."""
        try:
            async with asyncio.timeout(DNS_TIMEOUT_S):
                answers = await self._resolved(host, port)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise httpcore.ConnectError(f"cannot resolve {host!r}") from error
        addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        if len(addresses) > MAX_RESOLVED:
            raise DestinationRefused(f"{host!r} has {len(addresses)} addresses, at most {MAX_RESOLVED} are allowed")
        for address in addresses:
            await self._destinations.check_address(host, ipaddress.ip_address(address), port)
        return addresses

    async def _resolved(self, host: str, port: int) -> Any:
        """Resolve a name in a thread, which has a slot until it returns."""
        leave = await _NAMES.enter(self._tenant)
        call = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        resolving = asyncio.get_running_loop().run_in_executor(_RESOLVING, call)
        # Not on a cancellation, after which the thread is still occupied.
        resolving.add_done_callback(functools.partial(_ended, leave))
        return await asyncio.shield(resolving)


class _GuardedStream(httpcore.AsyncNetworkStream):
    """Bounds the bytes before the body, the fields after it, and the number of reads."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._head = bytearray()
        self._interim = 0
        self._fields = 0
        self._is_in_body = False
        self._trailers: Trailers | None = None
        self._reads = 0
        self._read_bytes = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._inner.read(max_bytes, timeout)
        self._reads += 1
        self._read_bytes += len(data)
        # Over TLS a read returns one record, however small, and does not suspend if the record has arrived.
        if self._reads % READS_AT_ONCE == 0:
            await asyncio.sleep(0)
        if self._reads % READS_COUNTED == 0:
            # Counted here and not at the body's pieces: chunk sizes, extensions and trailers are not part of any piece.
            if self._read_bytes < READS_COUNTED * MIN_READ_BYTES:
                raise httpcore.RemoteProtocolError("the server sends its bytes in too small pieces")
            self._read_bytes = 0
        # h11 would parse all that was read without a pause for other tasks.
        self._check(data)
        return data

    def _check(self, data: bytes) -> None:
        if self._is_in_body:
            self._check_trailers(data)
        else:
            self._check_heads(data)

    def _check_trailers(self, data: bytes) -> None:
        if self._trailers is not None:
            self._trailers.feed(data)
            if self._trailers.fields > MAX_HEAD_FIELDS:
                raise httpcore.RemoteProtocolError(f"trailers of more than {MAX_HEAD_FIELDS} fields")

    def _check_heads(self, data: bytes) -> None:
        searched_from = max(0, len(self._head) - 2)  # the end of a head has three bytes, two of which may be here
        self._head += data
        while (end := _END_OF_HEAD.search(self._head, searched_from)) is not None and not self._is_in_body:
            self._is_in_body = _INTERIM.match(self._head) is None
            self._interim += 1
            if self._interim > MAX_INTERIM and not self._is_in_body:
                raise httpcore.RemoteProtocolError("too many interim answers")
            self._fields += self._checked_fields(end.start())
            if self._is_in_body and is_chunked(bytes(self._head[: end.end()])):
                self._trailers = Trailers()
            del self._head[: end.end()]
            searched_from = 0
        if self._is_in_body:
            self._check_trailers(bytes(self._head))
            self._head.clear()
        self._checked_fields(len(self._head))

    def _checked_fields(self, size: int) -> int:
        """Return the number of fields in the first `size` bytes of a head. Raises if they exceed a limit."""
        if size > MAX_HEAD_BYTES:
            raise httpcore.RemoteProtocolError(f"a head of more than {MAX_HEAD_BYTES} bytes")
        # The status line ends with the first line feed, and the last two bytes may be part of the head's end.
        fields = self._head.count(b"\n", 0, max(0, size - 2))
        if self._fields + fields > MAX_HEAD_FIELDS:
            raise httpcore.RemoteProtocolError(f"heads of more than {MAX_HEAD_FIELDS} fields")
        return fields

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _GuardedStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _ended(leave: Callable[[], None], resolving: "asyncio.Future[Any]") -> None:
    leave()
    if not resolving.cancelled():
        resolving.exception()  # marks the error as retrieved, even if the caller was cancelled


def pinned_client(transport: PinnedTransport, *, timeout_s: float) -> httpx.AsyncClient:
    """Return a client for one request, to be closed with its connections afterwards.

    It requests uncompressed bytes and stores no cookie. It follows no redirect;
    `following_redirects` does.
    """
    return httpx.AsyncClient(
        transport=transport,
        follow_redirects=False,  # httpx would read a redirect's body, of any size, into memory
        timeout=timeout_s,
        trust_env=False,
        headers={"accept-encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


@asynccontextmanager
async def following_redirects(client: httpx.AsyncClient, url: str) -> AsyncIterator[httpx.Response]:
    """Return the response to a GET, its body unread. At most `MAX_REDIRECTS` are followed without reading a body."""
    request = client.build_request("GET", url)
    for _ in range(MAX_REDIRECTS + 1):
        response = await client.send(request, stream=True)
        try:
            if response.next_request is None:
                yield response
                return
            request = response.next_request
        finally:
            await response.aclose()
    raise httpx.TooManyRedirects(f"more than {MAX_REDIRECTS} redirects", request=request)


def described(error: httpx.HTTPError) -> str:
    """Describe a failure in at most MAX_ERROR characters, since some errors repeat a server's data."""
    words = next((words for kind, words in _FAILURES if isinstance(error, kind)), "the request failed")
    return f"{words}: {error}".rstrip(": ")[:MAX_ERROR]


_FAILURES: tuple[tuple[type[httpx.HTTPError], str], ...] = (
    (httpx.ConnectTimeout, "no connection in time"),
    (httpx.TimeoutException, "no answer in time"),
    (httpx.ConnectError, "no connection"),
    (httpx.NetworkError, "the connection broke"),
    (httpx.RemoteProtocolError, "no usable answer"),
    (httpx.TooManyRedirects, "the server redirects too often"),
)
"""What happened, in words of HTTP; the first kind that fits. The library's text follows."""


@functools.cache
def _tls() -> ssl.SSLContext:
    """Return the TLS context with the trusted authorities, cached because it takes 25 ms. It resumes no session."""
    return httpx.create_ssl_context(trust_env=False)

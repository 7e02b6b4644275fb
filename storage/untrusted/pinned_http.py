"""HTTP to URLs that strangers name: connects only to an address that was checked. This room's one HTTP transport.

A name is resolved once, every answer must pass the check, and the connection goes to the checked address, below TLS:
URL, Host, SNI and certificate keep the name. So a resolver that answers differently a second time changes nothing.
The check runs again for each redirect. Proxies and other settings of the environment are ignored.

Nothing of one request is known to the next: a client and its connections serve one request and its redirects, no
cookie is stored, and Python's TLS clients resume no session of their own accord. So no receiver sees what another
tenant's receiver said, and no two tenants share a connection.
"""

import asyncio
import functools
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

from storage.untrusted.addresses import AddressCheck, is_public

DNS_TIMEOUT_S = 5.0
MAX_ADDRESSES = 4
MAX_REDIRECTS = 3
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NUMERIC = re.compile(r"0x[0-9a-f]*|\d+", re.IGNORECASE)


class DestinationRefused(httpx.RequestError):
    """The URL leads where this client does not go."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"destination refused: {reason}")


class PinnedTransport(httpx.AsyncHTTPTransport):
    """`ports` None means the scheme's own port only; `check` is injected by tests and by nobody else."""

    def __init__(
        self,
        *,
        schemes: Iterable[str] = ("https", "http"),
        ports: Iterable[int] | None = None,
        check: AddressCheck = is_public,
        backend: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        super().__init__(verify=_tls(), trust_env=False)
        self._schemes = frozenset(schemes)
        self._ports = None if ports is None else frozenset(ports)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_tls(),
            keepalive_expiry=5.0,
            network_backend=_PinnedBackend(check, backend or httpcore.AnyIOBackend()),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._check_url(request.url)
        return await super().handle_async_request(request)

    def _check_url(self, url: httpx.URL) -> None:
        """Runs for every hop of a redirect."""
        if url.scheme not in self._schemes:
            raise DestinationRefused(f"scheme {url.scheme!r}")
        port = url.port or _DEFAULT_PORTS[url.scheme]
        if port not in (self._ports or {_DEFAULT_PORTS[url.scheme]}):
            raise DestinationRefused(f"port {port}")
        if url.userinfo:
            raise DestinationRefused("credentials in the URL")
        host = url.raw_host.decode("ascii", "replace").rstrip(".").lower()
        if not host or any(character in host for character in "%\\ "):
            raise DestinationRefused("not a host name")
        if ":" not in host and _NUMERIC.fullmatch(host.rsplit(".", 1)[-1]):
            try:
                ipaddress.IPv4Address(host)
            except ValueError:
                raise DestinationRefused("an IP address in an unusual form") from None


class _PinnedBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, check: AddressCheck, inner: httpcore.AsyncNetworkBackend) -> None:
        self._check = check
        self._inner = inner

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
            return stream
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> httpcore.AsyncNetworkStream:
        raise DestinationRefused("a Unix socket")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)

    async def _checked_addresses(self, host: str, port: int) -> list[str]:
        """One bad answer refuses the whole name."""
        try:
            async with asyncio.timeout(DNS_TIMEOUT_S):
                answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise httpcore.ConnectError(f"cannot resolve {host!r}") from error
        addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        if not all(self._check(ipaddress.ip_address(address)) for address in addresses):
            raise DestinationRefused(f"{host!r} has an address that is not public")
        return addresses


def pinned_client(transport: PinnedTransport, *, timeout_s: float, follow_redirects: bool = True) -> httpx.AsyncClient:
    """For one request: close it then, and its connections with it. At most `MAX_REDIRECTS` are followed, each checked.

    It asks for bytes as they are, and stores no cookie, not even that of a redirect.
    """
    return httpx.AsyncClient(
        transport=transport,
        follow_redirects=follow_redirects,
        max_redirects=MAX_REDIRECTS,
        timeout=timeout_s,
        trust_env=False,
        headers={"accept-encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


@functools.cache
def _tls() -> ssl.SSLContext:
    """The trusted authorities, read once: that takes 25 ms. The context alone resumes no TLS session."""
    return httpx.create_ssl_context(trust_env=False)

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
import socket
import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

from storage.untrusted.destinations import DestinationRefused, Destinations

DNS_TIMEOUT_S = 5.0
MAX_ADDRESSES = 4
MAX_REDIRECTS = 3


class PinnedTransport(httpx.AsyncHTTPTransport):
    def __init__(self, destinations: Destinations, *, backend: httpcore.AsyncNetworkBackend | None = None) -> None:
        super().__init__(verify=_tls(), trust_env=False)
        self._destinations = destinations
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_tls(),
            keepalive_expiry=5.0,
            network_backend=_PinnedBackend(destinations, backend or httpcore.AnyIOBackend()),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._destinations.check_url(request.url)
        return await super().handle_async_request(request)


class _PinnedBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, destinations: Destinations, inner: httpcore.AsyncNetworkBackend) -> None:
        self._destinations = destinations
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
        for address in addresses:
            await self._destinations.check_address(host, ipaddress.ip_address(address), port)
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

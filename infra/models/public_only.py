"""HTTP for the sources that a workflow names: https alone, and connections to public addresses alone.

The name is resolved once, every address is checked, and the connection goes to a checked one, below TLS. Each redirect
is checked again. Proxies of the environment are not used, since they would resolve the name themselves.
"""

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from storage.intake.ssrf import DestinationRefused, is_public


class PublicOnly(httpx.BaseTransport):
    """Checks the URL of every request and redirect before `inner` sends it."""

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if url.scheme != "https" or url.port not in (None, 443) or url.userinfo:
            raise DestinationRefused("no https URL without a port and a user")
        return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()


def public_transport() -> PublicOnly:
    return PublicOnly(_CheckedTransport())


class _CheckedTransport(httpx.HTTPTransport):
    def __init__(self) -> None:
        super().__init__(trust_env=False)
        # httpx has no parameter for the network backend, so its pool is replaced.
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False), network_backend=_CheckedBackend()
        )


class _CheckedBackend(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError(f"no address for {host!r}")
        for address in _checked_addresses(host, port):
            try:
                return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


def _checked_addresses(host: str, port: int) -> list[str]:
    """Resolve a name; one address that is not public refuses the whole name."""
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"cannot resolve {host!r}") from error
    addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    for address in addresses:
        if not is_public(ipaddress.ip_address(address)):
            raise DestinationRefused(f"{host!r} has an address that is not public")
    return addresses

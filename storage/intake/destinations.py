"""The destinations of untrusted URLs, checked by the text and by the address of each connection.

Both use one set of rules, so that a submission is refused with the message that its delivery would end with.
"""

import ipaddress
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from storage.intake.addresses import Address, AddressCheck, is_of_this_machine, is_public, unmapped

DEFAULT_PORTS = {"http": 80, "https": 443}
_NUMERIC = re.compile(r"0x[0-9a-f]*|\d+", re.IGNORECASE)

_LOCALHOST = ipaddress.IPv4Address("127.0.0.1")

LoopbackRule = Callable[[], Awaitable[str | None]]
"""Returns None if servers on this machine may be reached, else the reason why not."""


class DestinationRefused(httpx.RequestError):
    """The URL's destination is not allowed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"destination refused: {reason}")


REFUSALS: tuple[type[Exception], ...] = (
    DestinationRefused,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
    UnicodeError,
)
"""The errors of a URL that can never be reached; httpx passes on the error of a host that is no IDNA name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destinations:
    """`ports` None means only the scheme's port. `loopback` allows loopback addresses on any port; None forbids them.

    `own_ports` are those of this deployment's processes. No client's URL may connect to them, by any address of this
    machine.
    """

    schemes: frozenset[str] = frozenset(DEFAULT_PORTS)
    ports: frozenset[int] | None = None
    is_allowed: AddressCheck = is_public
    own_ports: frozenset[int] = frozenset()
    loopback: LoopbackRule | None = None

    async def check_url(self, url: httpx.URL) -> None:
        """Check what is known without resolving the name. Runs for every hop of a redirect."""
        self._check_parts(url)
        host = _host_of(url)
        if host == "localhost" or host.endswith(".localhost"):  # RFC 6761: loopback, whatever a resolver says
            await self.check_address(host, _LOCALHOST, _port_of(url))
        elif ":" in host or _NUMERIC.fullmatch(host.rsplit(".", 1)[-1]):
            try:
                address: Address = ipaddress.ip_address(host)
            except ValueError:
                raise DestinationRefused("an IP address in an unusual form") from None
            await self.check_address(host, address, _port_of(url))

    def _check_parts(self, url: httpx.URL) -> None:
        if url.scheme not in self.schemes:
            raise DestinationRefused(f"scheme {url.scheme!r}")
        # With loopback, the allowed ports depend on the address: see `check_address`.
        port = _port_of(url)
        if self.loopback is None and port not in (self.ports or {DEFAULT_PORTS[url.scheme]}):
            raise DestinationRefused(f"port {port}")
        if url.userinfo:
            raise DestinationRefused("credentials in the URL")
        host = _host_of(url)
        try:
            readable = url.host  # decodes IDNA
        except UnicodeError:
            readable = ""
        if not host or not readable or any(character in host for character in "%\\ "):
            raise DestinationRefused("not a host name")

    async def check_address(self, host: str, address: Address, port: int) -> None:
        """Check one address of the name. Runs for each of them before every connection."""
        address = unmapped(address)
        if port in self.own_ports and is_of_this_machine(address):
            raise DestinationRefused(f"port {port} of this machine belongs to this deployment itself")
        if address.is_loopback and self.loopback is not None:
            if (reason := await self.loopback()) is not None:
                raise DestinationRefused(reason)
            return
        if not self.is_allowed(address):
            raise DestinationRefused(f"{host!r} has an address that is not public")
        if port not in (self.ports or DEFAULT_PORTS.values()):
            raise DestinationRefused(f"port {port}")


def _host_of(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii", "replace").rstrip(".").lower()


def _port_of(url: httpx.URL) -> int:
    return DEFAULT_PORTS[url.scheme] if url.port is None else url.port

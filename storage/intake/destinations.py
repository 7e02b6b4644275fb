"""Where a stranger's URL may lead: by its text, as far as that tells, and by the address that is connected to.

One set of rules for both, so that a submission is refused with the words that its delivery would end with.
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
"""None where servers on this machine may be reached, else the reason why not."""


class DestinationRefused(httpx.RequestError):
    """The URL leads where this client does not go."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"destination refused: {reason}")


REFUSALS: tuple[type[Exception], ...] = (
    DestinationRefused,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
    UnicodeError,
)
"""What a URL that no request will ever reach raises; httpx lets the error of a host that is no IDNA name through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destinations:
    """`ports` None means the scheme's own port only. `loopback` allows loopback addresses, on any port; None does not.

    `own_ports` are those of this deployment's own processes. Nothing connects to them in a client's name, by whatever
    address of this machine.
    """

    schemes: frozenset[str] = frozenset(DEFAULT_PORTS)
    ports: frozenset[int] | None = None
    is_allowed: AddressCheck = is_public
    own_ports: frozenset[int] = frozenset()
    loopback: LoopbackRule | None = None

    async def check_url(self, url: httpx.URL) -> None:
        """Everything that can be known without resolving a name. Runs for every hop of a redirect."""
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
        # With loopback, only the address tells which ports are allowed: see `check_address`.
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
        """Runs before every connection, for every address that a name has."""
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

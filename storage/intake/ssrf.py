"""The destinations of untrusted URLs, against server-side request forgery: public addresses only.

A URL is checked by its text, and by the address of each connection. Both use one set of rules, so that a submission is
refused with the message that its delivery would end with. The networks are those of IANA's special-purpose registries
and the metadata addresses of clouds. IPv6 is denied by default: translation, local and unassigned ranges all lie
outside 2000::/3.
"""

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddressCheck = Callable[[Address], bool]

_DENIED_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "168.63.129.16/32",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
_ALLOWED_V6 = ipaddress.IPv6Network("2000::/3")
_DENIED_V6 = tuple(
    map(
        ipaddress.IPv6Network,
        ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),
    )
)


def is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _DENIED_V4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    in_reach = address.scope_id is None and address in _ALLOWED_V6
    return in_reach and not any(address in network for network in _DENIED_V6)


def unmapped(address: Address) -> Address:
    """Return the IPv4 address of a mapped IPv6 one (::ffff:127.0.0.1), else the address itself."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_of_this_machine(address: Address) -> bool:
    """Whether the address is loopback, unspecified, or that of an interface of this machine, which can be bound."""
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


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


def refusal_reason(error: Exception) -> str:
    """Return why a URL can never be reached, for one of `REFUSALS`."""
    # The other errors are in the words of parsers.
    return str(error) if isinstance(error, DestinationRefused) else "destination refused: a malformed URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destinations:
    """`ports` None means only the scheme's port. `loopback` allows loopback addresses on any port; None forbids them.

    `loopback_ports` are allowed on loopback addresses alone. `own_ports` are those of this deployment's processes. No
    client's URL may connect to them, by any address of this machine.
    """

    schemes: frozenset[str] = frozenset(DEFAULT_PORTS)
    ports: frozenset[int] | None = None
    is_allowed: AddressCheck = is_public
    own_ports: frozenset[int] = frozenset()
    loopback_ports: frozenset[int] = frozenset()
    loopback: LoopbackRule | None = None

    async def check_url(self, url: httpx.URL) -> None:
        """Check what is known without resolving the name. Runs for every hop of a redirect."""
        self._check_parts(url)
        host = _host_of(url)
        if host == "localhost" or host.endswith(".localhost"):  # RFC 6761: loopback, whatever a resolver says
            await self.check_address(host, _LOCALHOST, _port_of(url))
        # Resolvers also take 0x7f.1 and 2130706433 for addresses, so a host that ends with a number must be one.
        elif ":" in host or _NUMERIC.fullmatch(host.rsplit(".", 1)[-1]):
            try:
                address: Address = ipaddress.ip_address(host)
            except ValueError:
                raise DestinationRefused("an IP address in an unusual form") from None
            await self.check_address(host, address, _port_of(url))

    def _check_parts(self, url: httpx.URL) -> None:
        if url.scheme not in self.schemes:
            raise DestinationRefused(f"it begins with none of {', '.join(f'{s}://' for s in sorted(self.schemes))}")
        # Where loopback is allowed, the allowed ports depend on the address: see `check_address`.
        port = _port_of(url)
        allowed = (self.ports or {DEFAULT_PORTS[url.scheme]}) | self.loopback_ports
        if self.loopback is None and port not in allowed:
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
        # Before the rule for loopback, which may allow all other servers of this machine.
        if port in self.own_ports and is_of_this_machine(address):
            raise DestinationRefused(f"port {port} of this machine belongs to this deployment itself")
        if address.is_loopback and port in self.loopback_ports:
            return
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

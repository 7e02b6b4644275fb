"""The address that servers of this machine listen on, and the address at which they are reached."""

import contextlib
import ipaddress
import socket
from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
ANY = "0.0.0.0"  # noqa: S104  a choice of `--host`, never a default
BACKLOG = 512


class CannotListen(Exception):
    """The address or the port cannot be used. The message says what to do."""


def reached_at(host: str) -> str:
    """Return the address at which this machine itself reaches a server that listens on `host`."""
    return LOOPBACK if host == ANY else host


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen on an IPv4 address of this machine; port 0 takes any free one. Raise `CannotListen`."""
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        raise CannotListen(
            f"--host {host} is not an IPv4 address\n  → {LOOPBACK} is this machine alone, {ANY} every network"
        ) from None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # Connections of the previous server in TIME_WAIT would otherwise keep the port for a minute.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise CannotListen(
                f"port {port} cannot be used on {host} ({error.strerror})\n"
                "  → choose another: --port 8001, or --port 0 for any that is free (make up PORT=0)"
            ) from None
        listener.listen(BACKLOG)  # from here on connections wait for the server instead of being refused
        yield listener

"""Thousands of silent connections, and how an API performs meanwhile."""

import contextlib
import resource
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import psutil

from tests.support.plain_http import NO_TLS

KEPT_FILES = 500
"""The open files that a test process needs for itself."""
PARTIAL = b"POST /v1/jobs HTTP/1.1\r\nhost: here\r\n"


@dataclass(frozen=True, slots=True)
class Weather:
    """The state of the API during a flood; `health_s` are the durations of /health requests on new connections, in
    seconds."""

    connections: int
    health_s: tuple[float, ...]
    rss_before: int
    rss_most: int
    open_most: int


def flooded(api_url: str, api_pid: int, wanted: int) -> Weather:
    """Open `wanted` connections, or as many as this process may, and request the API's health meanwhile.

    Every second connection sends half a request head. A failed health check raises.
    """
    api, number = psutil.Process(api_pid), min(wanted, _may_open())
    before = api.memory_info().rss
    rss, files = [before], [0]
    health: list[float] = []
    with _flood(api_url, number) as is_over:
        while not is_over.is_set() or len(health) < 10:
            started = time.monotonic()
            httpx.get(f"{api_url}/health", timeout=60, verify=NO_TLS).raise_for_status()
            health.append(time.monotonic() - started)
            rss.append(api.memory_info().rss)
            files.append(api.num_fds())
            time.sleep(0.1)
    return Weather(number, tuple(health), before, max(rss), max(files))


def allow_many_files() -> None:
    """Raise the limit of open files to this process's hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _may_open() -> int:
    allow_many_files()
    return max(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - KEPT_FILES)


@contextmanager
def _flood(api_url: str, number: int) -> Iterator[threading.Event]:
    """Yield an event that is set when all connections are open; they stay open until the end unless the server
    closes them."""
    is_over, url = threading.Event(), httpx.URL(api_url)
    opened: list[socket.socket] = []
    thread = threading.Thread(target=_open, args=((url.host, url.port), number, opened, is_over), daemon=True)
    thread.start()
    try:
        yield is_over
    finally:
        thread.join()
        for connection in opened:
            connection.close()


def _open(address: tuple[str, int], number: int, opened: list[socket.socket], is_over: threading.Event) -> None:
    """Open connections as fast as the kernel accepts them, without waiting for each other."""
    with selectors.DefaultSelector() as selector:
        for position in range(number):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(address)
            opened.append(connection)
            if position % 2:
                selector.register(connection, selectors.EVENT_WRITE)
            for key, _ in selector.select(0):
                selector.unregister(key.fileobj)
                with contextlib.suppress(OSError):
                    _socket(key.fileobj).send(PARTIAL)
    is_over.set()


def _socket(file: object) -> socket.socket:
    assert isinstance(file, socket.socket)
    return file

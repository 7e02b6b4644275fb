"""Downloads a user's URL to a local file: bounded in size and time, of a media type, from a public address.

httpx is imported with the first URL, since it takes a fifth of the API's start and many deployments never fetch one.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storage.bucket.budget import current_owner
from storage.errors import FetchFailed, FetchRefused, FileRefused
from storage.fair_slots import FairSlots
from storage.formats import HEAD_BYTES, listed_format

if TYPE_CHECKING:
    import httpx

    from storage.intake.ssrf_transport import PinnedTransport

FETCH_TIMEOUT_S = 60.0
"""Wall-clock limit of a whole download, since a slow drip of bytes never reaches a read timeout."""
READ_TIMEOUT_S = 15.0
CHUNK_BYTES = 64 * 1024
PIECES_AT_ONCE = 64
"""Pieces of a body that are processed before other tasks run: a server can put 10,000 chunks of one byte into one read,
each takes 100 µs, and none suspends."""
FREE_PIECES = 2_000
MIN_PIECE_BYTES = 128
"""Minimum average bytes per piece after the first FREE_PIECES. Usual servers send a KiB or more."""
RESERVED_BYTES = 1024**2
"""Bytes that are reserved at a time if the server does not declare the length."""
MAX_WAITING = 100
"""Maximum requests with URLs of one tenant that wait for a slot of one process."""
WAIT_S = 30.0
"""Seconds that a request waits for a slot."""


class NotReserved(FetchRefused):
    """A further `size_bytes` could not be reserved."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"{size_bytes} bytes more are not allowed")
        self.size_bytes = size_bytes


@dataclass(slots=True)
class Meter:
    """Counts the bytes of one download. `reserve` is called before they are kept; False ends the download."""

    reserve: Callable[[int], Awaitable[bool]]
    reserved: int = 0
    received: int = 0

    async def expect(self, total: int) -> None:
        """Reserve the declared length. Raises `NotReserved`."""
        if total > self.reserved and not await self._has_reserved(total):
            raise NotReserved(total - self.reserved)

    async def receive(self, size_bytes: int) -> None:
        """Count received bytes; bytes beyond the reservation are reserved in steps. Raises `NotReserved`."""
        self.received += size_bytes
        # Near the end of a quota a whole step no longer fits, so only the received bytes are reserved then.
        if self.received > self.reserved and not await self._has_reserved(self.received + RESERVED_BYTES):
            await self.expect(self.received)

    async def _has_reserved(self, total: int) -> bool:
        if not await self.reserve(total - self.reserved):
            return False
        self.reserved = total
        return True


class FetchPlaces:
    """The slots of one API process: concurrent fetches in total, per tenant and per host.

    A request fetches one URL at a time. With `of_host` above `of_tenant`, no tenant takes all slots of a host.
    """

    def __init__(self, *, requests: int = 16, of_tenant: int = 4, of_host: int = 8) -> None:
        self.requests = FairSlots(requests, each=of_tenant, max_waiting=MAX_WAITING, wait_s=WAIT_S)
        self.hosts = FairSlots(requests, each=of_host)


class RemoteFetcher:
    """Downloads files. No two downloads share a connection.

    `own_ports` are those of this deployment's processes, `loopback_ports` those of this machine that may be reached.
    Only tests set `transport`.
    """

    def __init__(
        self,
        *,
        own_ports: Iterable[int] = (),
        loopback_ports: Iterable[int] = (),
        transport: "Callable[[], PinnedTransport] | None" = None,
    ) -> None:
        self._own_ports = frozenset(own_ports)
        self._loopback_ports = frozenset(loopback_ports)
        self._transport = transport

    async def fetch(self, url: str, path: Path, *, meter: Meter, max_bytes: int) -> int:
        """Download a URL and return the size in bytes.

        Raises `FetchRefused` if the URL or its content is not allowed, `FetchFailed` if it fails.
        """
        import httpx

        from storage.intake.ssrf import REFUSALS, Destinations, refusal_reason
        from storage.intake.ssrf_transport import PinnedTransport, described, following_redirects, pinned_client

        here = Destinations(own_ports=self._own_ports, loopback_ports=self._loopback_ports)
        transport = self._transport() if self._transport else PinnedTransport(here, tenant=current_owner())
        try:
            async with (
                asyncio.timeout(FETCH_TIMEOUT_S),
                pinned_client(transport, timeout_s=READ_TIMEOUT_S) as client,
                following_redirects(client, url) as response,
            ):
                return await self._download(response, path, meter, max_bytes)
        except REFUSALS as error:  # before HTTPError, of which some are subclasses
            raise FetchRefused(refusal_reason(error)) from error
        except httpx.HTTPError as error:
            raise FetchFailed(described(error)) from error
        except TimeoutError:
            raise FetchFailed(f"not finished within {FETCH_TIMEOUT_S:.0f} s") from None

    async def _download(self, response: "httpx.Response", path: Path, meter: Meter, max_bytes: int) -> int:
        if response.status_code != 200:
            raise FetchFailed(f"the server answered {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise FetchRefused("the server sent a compressed body, which was not asked for")
        announced = response.headers.get("content-length", "")
        # `int` refuses thousands of digits, and accepts those of other scripts.
        if announced.isascii() and announced.isdecimal() and len(announced) < 20:
            _check_size(int(announced), max_bytes)
            await meter.expect(int(announced))
        is_checked = False
        with path.open("wb") as file:
            async for chunk in _metered(_in_chunks(response.aiter_raw()), meter, max_bytes):
                if not is_checked:  # the first chunk: a file of another type is not fetched to its end
                    _check_format(chunk)
                    is_checked = True
                file.write(chunk)
        if not is_checked:
            _check_format(b"")
        return meter.received


async def _in_chunks(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join the server's pieces of any size to chunks of CHUNK_BYTES; the last may be smaller."""
    pending, count, size = bytearray(), 0, 0
    async for piece in pieces:
        count, size = count + 1, size + len(piece)
        if count > FREE_PIECES and size < count * MIN_PIECE_BYTES:
            raise FetchFailed("the server sends more framing than data")
        if count % PIECES_AT_ONCE == 0:
            await asyncio.sleep(0)
        pending += piece
        if len(pending) >= CHUNK_BYTES:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)


async def _metered(chunks: AsyncIterator[bytes], meter: Meter, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the chunks after their bytes are reserved; all but the last are large enough to detect a file's type."""
    head = b""
    async for chunk in chunks:
        _check_size(meter.received + len(chunk), max_bytes)
        await meter.receive(len(chunk))
        head += chunk
        if len(head) >= HEAD_BYTES:
            yield head
            head = b""
    if head:
        yield head


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise FetchRefused(f"larger than {max_bytes} bytes")


def _check_format(head: bytes) -> None:
    try:
        listed_format(head, len(head))
    except FileRefused as error:
        raise FetchRefused(str(error)) from None

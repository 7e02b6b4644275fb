"""A received document: its structure and short strings in memory, its long strings in files."""

import asyncio
import hashlib
import json
import math
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

from app.body._scanner import PIECE, SPOOL_THRESHOLD, BodyTooLarge, Scanner, TextTooLong
from app.body._spooled import SpooledText, parsed_text
from app.heavy import off_loop

LIGHT = 4 * 1024 * 1024
"""Documents that take more memory, restored texts included, need a place: see `app.body.large`."""
QUICK = 128 * 1024
"""Documents that take less memory are processed on the event loop, in a few milliseconds; others in a thread."""
TEXT_IN_MEMORY = 1024 * 1024
"""Bytes of a document's text that are in memory while it arrives."""
PARSED = 8
"""How much more memory a parsed graph takes than its text."""

T = TypeVar("T")

Enter = Callable[[], Awaitable[Callable[[], None]]]

Place = tuple[str, ...]
"""A path of member names from the root; `*` matches any name or position."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class TextLimits:
    """Limits in bytes on the long strings held in memory: on one string, and on all strings of a request."""

    one: int
    total: int


class Body:
    """A received document. It is a context manager that removes its temporary files on exit.

    `begin` waits for a place for a document of more than SPOOL_THRESHOLD bytes in memory, `enter` for a place for a
    large one as well. Each returns a function that leaves the place. Bodies that share `turn` scan one piece at a time.
    """

    def __init__(
        self, enter: Enter | None = None, begin: Enter | None = None, turn: asyncio.Lock | None = None
    ) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._nonce = secrets.token_hex(8)
        self._spools: list[Path] = []
        self._digest = hashlib.sha256()
        self._enter = enter
        self._begin = begin
        self._turn = turn or asyncio.Lock()
        self._received = 0
        self._leave: Callable[[], None] | None = None
        self._in_memory = 0
        self._texts = 0
        self._last_steps: list[Callable[[], None]] = []

    def at_close(self, step: Callable[[], None]) -> None:
        """Register a function that is called on exit, after the files are removed."""
        self._last_steps.append(step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._leave is not None:
            self._leave()
        if self._folder is not None:
            self._folder.cleanup()
        for step in self._last_steps:  # places bound the files on disk, so they are left after the removal
            step()

    async def receive(self, chunks: AsyncIterator[bytes], *, limit: int) -> Any:
        """Parse the document, with placeholders for long strings. Raises ValueError for bad JSON, `BodyTooLarge`."""
        with tempfile.SpooledTemporaryFile(TEXT_IN_MEMORY) as small:
            scanner = Scanner(small, self._new_spool)
            try:
                async for piece in self._pieces(chunks, limit):
                    await self._scan(scanner, piece)
                scanner.finish()
            finally:
                scanner.close()
            # Places are taken before the document is read back into memory and parsed, which multiplies its size. The
            # body has arrived whole: no place of these waits for a client.
            await self.hold(scanner.weight)
            small.seek(0)
            return await _aside(scanner.size, _parsed, small.read(), _finite if scanner.has_large_exponent else None)

    async def _pieces(self, chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
        """Yield the body in pieces of `PIECE` bytes."""
        # Equal pieces keep scanning linear: a body that arrives byte by byte would be rescanned for each byte.
        pending = bytearray()
        async for chunk in chunks:
            self._received += len(chunk)
            if self._received > limit:
                raise BodyTooLarge(f"more than {limit} bytes")
            self._digest.update(chunk)
            pending += chunk
            for start in range(0, len(pending) - PIECE + 1, PIECE):
                yield bytes(pending[start : start + PIECE])
            del pending[: len(pending) // PIECE * PIECE]
        yield bytes(pending)

    async def _scan(self, scanner: Scanner, piece: bytes) -> None:
        """Scan one piece. All large bodies together scan one piece in each iteration of the event loop."""
        if self._received <= SPOOL_THRESHOLD:
            scanner.feed(piece)
            return
        async with self._turn:
            scanner.feed(piece)
        # Outside the lock, so that the next body scans in the next iteration, after other requests had their turn.
        await asyncio.sleep(0)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the body's raw bytes, in hex."""
        return self._digest.hexdigest()

    def spooled(self, value: str) -> SpooledText:
        """Return the string `value`, or the spooled string if `value` is a placeholder."""
        number = self._number(value)
        return SpooledText(value if number is None else self._spools[number])

    async def restored(self, document: Any, limits: TextLimits, keep: Sequence[Place] = ()) -> Any:
        """Put long strings back except at the places in `keep`. Raises `TextTooLong`, `BadText`."""
        if not self._spools:
            return document
        found = await self.aside(lambda: [spooled.held_bytes for spooled in self._found(document, keep)])
        # Added up over all calls of a request: the workflow and each input are restored separately.
        self._texts += sum(found)
        if max(found, default=0) > limits.one:
            raise TextTooLong(f"a text of {max(found)} bytes, at most {limits.one} are allowed")
        if self._texts > limits.total:
            raise TextTooLong(f"long texts of {self._texts} bytes in all, at most {limits.total} are allowed")
        if not found:
            return document
        await self.hold(sum(found))
        return await _aside(sum(found), self._put_back, document, limits.one, keep)

    def _found(self, document: Any, keep: Sequence[Place]) -> Iterator[SpooledText]:
        """Yield every long string outside `keep`, member names included."""
        if () in keep:
            return
        if isinstance(document, str):
            if self._number(document) is not None:
                yield self.spooled(document)
        elif isinstance(document, dict):
            # A member's name can be a long string too, and is never kept: no caller accepts a placeholder there.
            for name, item in document.items():
                yield from self._found(name, ())
                yield from self._found(item, _below(keep, name))
        elif isinstance(document, list):
            for item in document:
                yield from self._found(item, _below(keep, "*"))

    def _put_back(self, document: Any, limit: int, keep: Sequence[Place]) -> Any:
        if () in keep:
            return document
        if isinstance(document, str):
            return self.spooled(document).text(limit)
        if isinstance(document, list):
            inner = _below(keep, "*")
            return [self._put_back(item, limit, inner) for item in document]
        if isinstance(document, dict):
            return {
                self._put_back(name, limit, ()): self._put_back(item, limit, _below(keep, name))
                for name, item in document.items()
            }
        return document

    async def take_place(self) -> None:
        """Wait for a place among the larger documents, for one that is to be parsed or read from elsewhere."""
        if self._begin is not None:
            begin, self._begin = self._begin, None
            self.at_close(await begin())

    async def hold(self, more: int) -> None:
        """Account for `more` bytes in memory, and wait for the places that the document needs when it becomes large."""
        self._in_memory += more
        if self._in_memory > SPOOL_THRESHOLD:
            await self.take_place()
        if self._in_memory > LIGHT and self._enter is not None and self._leave is None:
            self._leave = await self._enter()

    def has_room(self, more: int) -> bool:
        """Account for `more` bytes in memory if that takes no further place; else return False."""
        wanted = self._in_memory + more
        needs_place = wanted > SPOOL_THRESHOLD and self._begin is not None
        if needs_place or (wanted > LIGHT and self._enter is not None and self._leave is None):
            return False
        self._in_memory = wanted
        return True

    async def aside(self, work: Callable[..., T], *args: Any) -> T:
        """Run `work` on the document, in a thread if the document is too large for the event loop."""
        return work(*args) if self._in_memory <= QUICK else await off_loop(work, *args)

    def new_file(self, name: str) -> Path:
        """Return a path for a temporary file of the caller, removed with the body."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="comfyui-modal-body-", ignore_cleanup_errors=True)
        return Path(self._folder.name) / name

    def _new_spool(self) -> tuple[BinaryIO, bytes]:
        path = self.new_file(f"spool-{len(self._spools)}")
        self._spools.append(path)
        # The NUL is escaped because the placeholder becomes part of JSON, which has no raw control characters.
        return path.open("wb"), f"\\u0000{self._nonce}:{len(self._spools) - 1}".encode()

    def _number(self, value: str) -> int | None:
        """Return the spool number of a placeholder, or None for any other string."""
        # The nonce is random per body, so a client cannot forge a placeholder for a string of its choice.
        mark = f"\0{self._nonce}:"
        return int(value.removeprefix(mark)) if value.startswith(mark) else None


def _parsed(small: bytes, parse_float: Callable[[str], float] | None) -> Any:
    """Parse UTF-8 JSON. Raises ValueError for anything else, NaN, Infinity and lone surrogates included."""
    # Given bytes, `json.loads` would also accept UTF-16 and UTF-32, in which the scanner finds no strings.
    text = small.decode()
    if _SURROGATE.search(small):
        parsed_text(text)  # raises for a lone surrogate, which `json` accepts
    # `parse_float` is a Python callback per number and slow, so it is passed only after a large exponent was seen.
    return json.loads(text, parse_constant=_refuse_constant, parse_float=parse_float)


async def _aside(size: int, work: Callable[..., Any], *args: Any) -> Any:
    """Run `work` on `size` bytes, in a thread above SPOOL_THRESHOLD to keep the event loop responsive."""
    return work(*args) if size <= SPOOL_THRESHOLD else await off_loop(work, *args)


def _below(keep: Sequence[Place], name: str) -> Sequence[Place]:
    return [place[1:] for place in keep if place and place[0] in ("*", name)] if keep else ()


def _finite(text: str) -> float:
    """Convert a number. Raises ValueError for 1e999, which JSON allows and a double cannot represent."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:50]} is beyond a double's range")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

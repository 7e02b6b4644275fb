"""Request bodies of hundreds of megabytes in constant memory.

JSON is scanned as it arrives. A string longer than SPOOL_THRESHOLD, a medium in base64 for one, goes to a temporary
file, and a short placeholder takes its place; what is left is small and parsed as usual. Sans-I/O but for those files.

Whoever reads the document must say where a placeholder may stand: `receive` puts all other strings back.
"""

import asyncio
import binascii
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
from typing import IO, Any, BinaryIO, Self

SPOOL_THRESHOLD = 64 * 1024
MAX_SMALL_JSON = 32 * 1024 * 1024
"""What may be left when the long strings are taken out: a graph of thousands of nodes has a few megabytes."""
MAX_VALUES = 1_000_000
"""Commas, colons and opening brackets: each may become an object of dozens of bytes. A graph has some thousands."""
MAX_DEPTH = 64
"""ComfyUI's own documents are ten deep at most; everything behind this may recurse."""
CHUNK = 1024 * 1024
LIGHT = 1024 * 1024
"""Documents of more bytes, texts included, are held in memory only by who has a place: see `app.large_bodies`."""

Place = tuple[str, ...]
"""Names and positions from the root, `*` for any."""

_MARKS = (b",", b":", b"[", b"{")
_BRACKET = re.compile(rb"[\[\]{}]")
_QUOTE = re.compile(rb'"')
_QUOTE_OR_ESCAPE = re.compile(rb'["\\]')
_ESCAPE = re.compile(rb"\\(?:u00([0-9a-fA-F]{2})|(.))", re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_WHITESPACE = b" \t\r\n\f\v"
_DATA_URL = re.compile(rb"data:[^,]{0,200},")


class BodyTooLarge(ValueError):
    """The body, what is left of it without its long strings, or the number of its values exceeds its limit."""


class TextTooLong(ValueError):
    """A string that has to be held in memory exceeds its limit, or all of them together theirs."""


class BadText(ValueError):
    """A string that is not JSON, or has half of a surrogate pair: JSON can write it, UTF-8 cannot, so nothing could
    store it."""


@dataclass(frozen=True, slots=True)
class TextLimits:
    """In bytes, of long strings that have to be held in memory: one of them, and all of a request."""

    one: int
    total: int


class BadBase64(ValueError):
    """Not base64; the message says what is wrong."""


class SpooledText:
    """A string of the document: in memory if it is short, in a file otherwise. The file holds it as JSON wrote it."""

    def __init__(self, source: str | Path) -> None:
        self._source = source

    def text(self, limit: int) -> str:
        """The whole string; `TextTooLong` beyond `limit` bytes."""
        if isinstance(self._source, str):
            return self._source
        if self._source.stat().st_size > limit:
            raise TextTooLong(f"a text of {self._source.stat().st_size} bytes, at most {limit} are allowed")
        try:
            text: str = json.loads(b'"' + self._source.read_bytes() + b'"')
        except ValueError as error:
            raise BadText(f"a long string is not JSON: {error}"[:200]) from None
        _check_text(text)
        return text

    @property
    def held_bytes(self) -> int:
        """What it would add to the memory that the document takes."""
        return 0 if isinstance(self._source, str) else self._source.stat().st_size

    def decode_base64(self, path: Path, limit: int) -> int:
        """Write the decoded bytes to `path`; returns their number. `BodyTooLarge` beyond `limit`.

        As the first version did: a data: URL's head, white space and missing padding are forgiven.
        """
        size = 0
        with path.open("wb") as file:
            for piece in _decoded(self._characters()):
                size += len(piece)
                if size > limit:
                    raise BodyTooLarge(f"more than {limit} bytes")
                file.write(piece)
        return size

    def _characters(self) -> Iterator[bytes]:
        """The string's characters, JSON's escapes resolved. A chunk never ends within an escape."""
        if isinstance(self._source, str):
            yield self._source.encode()
            return
        with self._source.open("rb") as file:
            rest = b""
            while chunk := file.read(CHUNK):
                chunk = rest + chunk
                cut = len(chunk)
                tail = chunk.rfind(b"\\", max(0, cut - 6))
                if tail >= 0:
                    cut = tail
                chunk, rest = chunk[:cut], chunk[cut:]
                yield _ESCAPE.sub(_unescape, chunk)
            yield _ESCAPE.sub(_unescape, rest)


class Body:
    """A received document. Close it, or use it as a context: its temporary files go then.

    `enter` waits for a place for a large document, and is told when that is left.
    """

    def __init__(self, enter: Callable[[], Awaitable[Callable[[], None]]] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="comfyui-modal-body-", ignore_cleanup_errors=True)
        self._nonce = secrets.token_hex(8)
        self._spools: list[Path] = []
        self._digest = hashlib.sha256()
        self._enter = enter
        self._leave: Callable[[], None] | None = None
        self._in_memory = 0
        self._texts = 0
        self.folder = Path(self._folder.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._leave is not None:
            self._leave()
        self._folder.cleanup()

    async def receive(self, chunks: AsyncIterator[bytes], *, limit: int) -> Any:
        """The document, long strings replaced by placeholders. ValueError if it is not JSON, `BodyTooLarge`."""
        with tempfile.SpooledTemporaryFile(LIGHT, dir=self._folder.name) as small:
            scanner = _Scanner(small, self._new_spool)
            try:
                size = 0
                async for chunk in chunks:
                    size += len(chunk)
                    if size > limit:
                        raise BodyTooLarge(f"more than {limit} bytes")
                    self._digest.update(chunk)
                    scanner.feed(chunk)
                scanner.finish()
            finally:
                scanner.close()
            await self._hold(scanner.size)
            small.seek(0)
            return await _aside(scanner.size, _parsed, small.read())

    @property
    def fingerprint(self) -> str:
        """A hash of the body's very bytes."""
        return self._digest.hexdigest()

    def spooled(self, value: str) -> SpooledText:
        """The string that `value` is, or that it stands for."""
        number = self._number(value)
        return SpooledText(value if number is None else self._spools[number])

    async def restored(self, document: Any, limits: TextLimits, keep: Sequence[Place] = ()) -> Any:
        """The document with its long strings put back but for those at `keep`. `TextTooLong`, `BadText`."""
        if not self._spools:
            return document
        found = [spooled.held_bytes for spooled in self._found(document, keep)]
        self._texts += sum(found)
        if max(found, default=0) > limits.one:
            raise TextTooLong(f"a text of {max(found)} bytes, at most {limits.one} are allowed")
        if self._texts > limits.total:
            raise TextTooLong(f"long texts of {self._texts} bytes in all, at most {limits.total} are allowed")
        if not found:
            return document
        await self._hold(sum(found))
        return await _aside(sum(found), self._put_back, document, limits.one, keep)

    def _found(self, document: Any, keep: Sequence[Place]) -> Iterator[SpooledText]:
        """Every long string, names included."""
        if () in keep:
            return
        if isinstance(document, str):
            if self._number(document) is not None:
                yield self.spooled(document)
        elif isinstance(document, dict):
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

    async def _hold(self, more: int) -> None:
        """So many bytes more will be in memory, for as long as this body is open."""
        self._in_memory += more
        if self._in_memory > LIGHT and self._enter is not None and self._leave is None:
            self._leave = await self._enter()

    def new_file(self, name: str) -> Path:
        """A path for the caller's own use, removed with the body."""
        return self.folder / name

    def _new_spool(self) -> tuple[BinaryIO, bytes]:
        path = self.folder / f"spool-{len(self._spools)}"
        self._spools.append(path)
        return path.open("wb"), f"\\u0000{self._nonce}:{len(self._spools) - 1}".encode()

    def _number(self, value: str) -> int | None:
        """The nonce cannot be guessed, so no client can name another string's file."""
        mark = f"\0{self._nonce}:"
        return int(value.removeprefix(mark)) if value.startswith(mark) else None


class _Scanner:
    """Finds the strings in a stream of JSON bytes, whatever else is wrong with it. What is left goes to `small`."""

    def __init__(self, small: IO[bytes], new_spool: Callable[[], tuple[BinaryIO, bytes]]) -> None:
        self._new_spool = new_spool
        self._small = small
        self._pending = bytearray()
        self._string: bytearray | None = None
        self._spool: BinaryIO | None = None
        self._placeholder = b""
        self._escaped = False
        self._values = 0
        self._depth = 0
        self.size = 0

    def feed(self, chunk: bytes) -> None:
        position = 0
        while position < len(chunk):
            position = self._outside(chunk, position) if self._string is None else self._inside(chunk, position)

    def finish(self) -> None:
        if self._string is not None:
            raise ValueError("it ends within a string")
        self._flush()

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()

    def _outside(self, chunk: bytes, position: int) -> int:
        quote = _QUOTE.search(chunk, position)
        end = quote.end() if quote else len(chunk)
        piece = chunk[position:end]
        self._weigh(piece)
        self._grow(piece)
        if quote:
            self._string = bytearray()
        return end

    def _weigh(self, piece: bytes) -> None:
        """Before anything is made of it: a parser is quick to fill the memory, and stops for nobody."""
        self._values += sum(piece.count(mark) for mark in _MARKS)
        if self._values > MAX_VALUES:
            raise BodyTooLarge(f"more than {MAX_VALUES} values")
        for bracket in _BRACKET.findall(piece):
            self._depth += 1 if bracket in b"[{" else -1
            if self._depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH}")

    def _inside(self, chunk: bytes, position: int) -> int:
        if self._escaped:
            self._escaped = False
            self._take(chunk[position : position + 1])
            return position + 1
        found = _QUOTE_OR_ESCAPE.search(chunk, position)
        if found is None:
            self._take(chunk[position:])
            return len(chunk)
        if chunk[found.start()] == ord("\\"):
            self._take(chunk[position : found.end()])
            self._escaped = True
        else:
            self._take(chunk[position : found.start()])
            self._close()
            self._grow(b'"')
        return found.end()

    def _take(self, piece: bytes) -> None:
        assert self._string is not None  # noqa: S101  only called inside a string
        if self._spool is not None:
            self._spool.write(piece)
            return
        self._string += piece
        if len(self._string) > SPOOL_THRESHOLD:
            self._spool, self._placeholder = self._new_spool()
            self._spool.write(self._string)

    def _close(self) -> None:
        assert self._string is not None  # noqa: S101  as above
        if self._spool is None:
            self._grow(self._string)
        else:
            self._spool.close()
            self._grow(self._placeholder)
        self._string = self._spool = None

    def _grow(self, piece: bytes | bytearray) -> None:
        self._pending += piece
        self.size += len(piece)
        if len(self._pending) > SPOOL_THRESHOLD:
            self._flush()
        if self.size > MAX_SMALL_JSON:
            raise BodyTooLarge(f"more than {MAX_SMALL_JSON} bytes without its long strings")

    def _flush(self) -> None:
        self._small.write(self._pending)
        self._pending.clear()


def _decoded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Base64 in pieces of any length; whole quanta are decoded as they come."""
    rest = b""
    at_start = True
    for piece in pieces:
        characters = rest + piece
        if at_start:
            characters = _DATA_URL.sub(b"", characters, count=1) if characters.startswith(b"data:") else characters
            at_start = False
        characters = characters.translate(None, _WHITESPACE)
        cut = len(characters) - len(characters) % 4
        if characters[cut - 1 : cut] == b"=":
            cut -= 4  # padding may only end it
        if b"=" in characters[:cut]:
            raise BadBase64("padding before the end")
        rest = characters[cut:]
        yield _decode(characters[:cut])
    yield _decode(rest + b"=" * (-len(rest) % 4))


def _decode(quanta: bytes) -> bytes:
    try:
        return binascii.a2b_base64(quanta, strict_mode=True)
    except binascii.Error as error:
        raise BadBase64(str(error)) from None


def _unescape(match: re.Match[bytes]) -> bytes:
    """`\\u002B` and `\\/` are ways to write base64's own characters; line breaks are left out."""
    if match[1] is not None:
        return bytes([int(match[1], 16)])
    return b"" if match[2] in b"nrtfb" else match[2]


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadText("a string holds half of a surrogate pair, which is no character") from None


def _parsed(small: bytes) -> Any:
    document = json.loads(small, parse_constant=_refuse_constant, parse_float=_finite)
    if _SURROGATE.search(small):
        _check_text(json.dumps(document, ensure_ascii=False))
    return document


async def _aside(size: int, work: Callable[..., Any], *args: Any) -> Any:
    """What takes a while is done in a thread: others are answered meanwhile."""
    return work(*args) if size <= SPOOL_THRESHOLD else await asyncio.to_thread(work, *args)


def _below(keep: Sequence[Place], name: str) -> Sequence[Place]:
    return [place[1:] for place in keep if place and place[0] in ("*", name)] if keep else ()


def _finite(text: str) -> float:
    """1e999 is a number of JSON's, but none that could be written again."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:50]} is beyond a double's range")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

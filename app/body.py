"""Request bodies of hundreds of megabytes in constant memory.

JSON is scanned as it arrives. A string longer than SPOOL_THRESHOLD, a medium in base64 for one, goes to a temporary
file, and a short placeholder takes its place; what is left is small and parsed as usual. Sans-I/O but for those files.
"""

import binascii
import hashlib
import json
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

SPOOL_THRESHOLD = 64 * 1024
MAX_SMALL_JSON = 32 * 1024 * 1024
"""What may be left when the long strings are taken out: a graph of thousands of nodes has a few megabytes."""
MAX_DEPTH = 64
"""ComfyUI's own documents are ten deep at most; everything behind this may recurse."""
CHUNK = 1024 * 1024

_QUOTE = re.compile(rb'"')
_QUOTE_OR_ESCAPE = re.compile(rb'["\\]')
_ESCAPE = re.compile(rb"\\(?:u00([0-9a-fA-F]{2})|(.))", re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_WHITESPACE = b" \t\r\n\f\v"
_DATA_URL = re.compile(rb"data:[^,]{0,200},")


class BodyTooLarge(ValueError):
    """The body, or what is left of it without its long strings, exceeds its limit."""


class TextTooLong(ValueError):
    """A string that has to be held in memory exceeds its limit."""


class BadText(ValueError):
    """A string with half of a surrogate pair: JSON can write it, UTF-8 cannot, so nothing could store it."""


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
        text: str = json.loads(b'"' + self._source.read_bytes() + b'"')
        _check_text(text)
        return text

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
    """A received document. Close it, or use it as a context: its temporary files go then."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="comfyui-modal-body-", ignore_cleanup_errors=True)
        self._nonce = secrets.token_hex(8)
        self._spools: list[Path] = []
        self._digest = hashlib.sha256()
        self.folder = Path(self._folder.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    async def receive(self, chunks: AsyncIterator[bytes], *, limit: int) -> Any:
        """The document, long strings replaced by placeholders. ValueError if it is not JSON, `BodyTooLarge`."""
        scanner = _Scanner(self._new_spool)
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge(f"more than {limit} bytes")
            self._digest.update(chunk)
            scanner.feed(chunk)
        small = scanner.finish()
        document = json.loads(small, parse_constant=_refuse_constant)
        if _is_deeper(document, MAX_DEPTH):
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        if _SURROGATE.search(small):
            _check_text(json.dumps(document, ensure_ascii=False))
        return document

    @property
    def fingerprint(self) -> str:
        """A hash of the body's very bytes."""
        return self._digest.hexdigest()

    def spooled(self, value: str) -> SpooledText:
        """The string that `value` is, or that it stands for."""
        number = self._number(value)
        return SpooledText(value if number is None else self._spools[number])

    def restore(self, document: Any, limit: int) -> Any:
        """The document with its long strings put back, each of at most `limit` bytes."""
        if not self._spools:
            return document
        if isinstance(document, str):
            return self.spooled(document).text(limit)
        if isinstance(document, list):
            return [self.restore(item, limit) for item in document]
        if isinstance(document, dict):
            return {self.restore(key, limit): self.restore(item, limit) for key, item in document.items()}
        return document

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
    """Finds the strings in a stream of JSON bytes, whatever else is wrong with it."""

    def __init__(self, new_spool: Any) -> None:
        self._new_spool = new_spool
        self._small = bytearray()
        self._string: bytearray | None = None
        self._spool: BinaryIO | None = None
        self._placeholder = b""
        self._escaped = False

    def feed(self, chunk: bytes) -> None:
        position = 0
        while position < len(chunk):
            position = self._outside(chunk, position) if self._string is None else self._inside(chunk, position)

    def finish(self) -> bytes:
        if self._string is not None:
            self._small += b'"'  # not closed: the parser will say so
            self._close()
            self._small = self._small[:-1]
        return bytes(self._small)

    def _outside(self, chunk: bytes, position: int) -> int:
        quote = _QUOTE.search(chunk, position)
        end = quote.end() if quote else len(chunk)
        self._grow(chunk[position:end])
        if quote:
            self._string = bytearray()
        return end

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
            self._small += b'"'
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
        self._small += piece
        if len(self._small) > MAX_SMALL_JSON:
            raise BodyTooLarge(f"more than {MAX_SMALL_JSON} bytes without its long strings")


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


def _is_deeper(document: Any, limit: int) -> bool:
    """Level by level, without recursion."""
    level = [document]
    for _ in range(limit):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

"""Reads the body of an asset upload: text parts, then one file, which goes to a temporary file as it arrives.

The file is hashed on its way and never in memory as a whole. The names in the parts' headers are compared, not used.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

MAX_TEXT_BYTES = 8 * 1024
"""The longest text part."""
MAX_PARTS = 64
MAX_TYPE_LENGTH = 256
MAX_OVERHEAD_BYTES = 1024 * 1024
"""What a body may have in addition to its file. The parser steps through some of it byte by byte, in Python."""
PIECE = 1024 * 1024
"""Bytes that are hashed and written at once."""
FILE = "file"


class BadMultipart(Exception):
    """The body is not what this operation takes; the message says why."""


class FileTooLarge(Exception):
    """The file exceeds the limit."""


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """`texts` has the values of each text part in order; `hash` is BLAKE3 in hex."""

    texts: dict[str, list[str]]
    size_bytes: int
    hash: str


def boundary_of(content_type: str) -> bytes:
    """Return the boundary of a multipart body. Raises `BadMultipart` for another type."""
    # A head of 64 KiB has room for a type whose options take 45 ms to parse.
    kind, options = parse_options_header(content_type if len(content_type) <= MAX_TYPE_LENGTH else "")
    if kind.lower() != b"multipart/form-data" or not options.get(b"boundary"):
        raise BadMultipart("the body's Content-Type is not multipart/form-data with a boundary")
    return options[b"boundary"]


class MultipartFile:
    """Receives one body into `path`. Every method raises `BadMultipart` and `FileTooLarge`."""

    def __init__(self, boundary: bytes, path: Path, *, limit: int) -> None:
        self._path, self._limit = path, limit
        self._texts: dict[str, list[str]] = defaultdict(list)
        self._hash = blake3()
        self._size = self._received = self._parts = self._delimiters = 0
        self._delimiter = b"\r\n--" + boundary
        self._pending = bytearray()
        self._text = bytearray()
        self._header, self._value = bytearray(), bytearray()
        self._name: str | None = None
        self._has_file = self._is_whole = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._named,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._finish,
                },
            )
        except FormParserError as error:
            raise BadMultipart(str(error)[:200]) from None

    async def receive(self, chunks: AsyncIterator[bytes]) -> ReceivedFile:
        """Read the body to its end."""
        with self._path.open("wb") as file:
            async for chunk in chunks:
                self._received += len(chunk)
                self._feed(chunk)
                if self._received - self._size > MAX_OVERHEAD_BYTES:
                    raise BadMultipart(f"the body has more than {MAX_OVERHEAD_BYTES} bytes in addition to its file")
                if len(self._pending) >= PIECE:
                    await asyncio.to_thread(self._flush, file)
            await asyncio.to_thread(self._flush, file)
        if not self._is_whole:
            raise BadMultipart("the body ends before its last boundary")
        if not self._has_file:
            raise BadMultipart(f"the body has no part {FILE!r}")
        return ReceivedFile(dict(self._texts), self._size, self._hash.hexdigest())

    def _feed(self, chunk: bytes) -> None:
        # RFC 2046 forbids the delimiter in the data of a part. The parser allows it, and is slow at each.
        self._delimiters += chunk.count(self._delimiter)
        if self._delimiters > MAX_PARTS + 1:
            raise BadMultipart("the boundary occurs in the data of a part")
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BadMultipart(f"the body is no multipart/form-data: {str(error)[:200]}") from None

    def _flush(self, file: BinaryIO) -> None:
        self._hash.update(self._pending)
        file.write(self._pending)
        self._pending.clear()

    # The parser's callbacks, in the order of a part.

    def _begin(self) -> None:
        self._parts += 1
        self._name = None
        self._text.clear()
        if self._parts > MAX_PARTS:
            raise BadMultipart(f"the body has more than {MAX_PARTS} parts")

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._header.clear()
        self._value.clear()

    def _named(self) -> None:
        if not self._name:
            raise BadMultipart(f"part {self._parts} has no name")
        if self._has_file:
            raise BadMultipart(f"part {self._name[:100]!r} follows the file; {FILE!r} must be the last part")
        self._has_file = self._name == FILE

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._has_file:
            self._size += end - start
            if self._size > self._limit:
                raise FileTooLarge(f"the file has more than {self._limit} bytes")
            self._pending += data[start:end]
            return
        self._text += data[start:end]
        if len(self._text) > MAX_TEXT_BYTES:
            raise BadMultipart(f"part {self._name!r} has more than {MAX_TEXT_BYTES} bytes")

    def _end(self) -> None:
        if self._has_file or self._name is None:
            return
        try:
            self._texts[self._name].append(self._text.decode())
        except UnicodeDecodeError:
            raise BadMultipart(f"part {self._name!r} is not UTF-8") from None

    def _finish(self) -> None:
        self._is_whole = True

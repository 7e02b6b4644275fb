"""JSON as it arrives: which of its bytes are long strings, and which are all the rest. Sans-I/O but for those files."""

import re
from collections.abc import Callable
from typing import IO, BinaryIO

from app.body._errors import BodyTooLarge

SPOOL_THRESHOLD = 64 * 1024
MAX_SMALL_JSON = 32 * 1024 * 1024
"""What may be left when the long strings are taken out: a graph of thousands of nodes has a few megabytes."""
MAX_VALUES = 1_000_000
"""Commas, colons and opening brackets: each may become an object of dozens of bytes. A graph has some thousands."""
MAX_DEPTH = 64
"""ComfyUI's own documents are ten deep at most; everything behind this may recurse."""

_MARKS = (b",", b":", b"[", b"{")
_BRACKET = re.compile(rb"[\[\]{}]")
_QUOTE = re.compile(rb'"')
_QUOTE_OR_ESCAPE = re.compile(rb'["\\]')


class Scanner:
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

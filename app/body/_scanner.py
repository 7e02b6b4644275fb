"""Separates the long strings of a JSON stream from the rest. Sans-I/O apart from the files it writes.

All work is done by compiled regular expressions and other C loops over pieces of `PIECE` bytes, because Python code
for each string or bracket lets a few megabytes of empty strings block the event loop for seconds. The scanner bounds
what the parser will build before the parser starts: values, depth, digits of a number, strings without a separator.
"""

import re
from collections.abc import Callable
from itertools import accumulate
from typing import IO, BinaryIO


class BodyTooLarge(ValueError):
    """The size of the body, its size without long strings, or the number of its values exceeds a limit."""


class TextTooLong(ValueError):
    """A string that has to be held in memory exceeds its limit, or all such strings exceed their total."""


class BadText(ValueError):
    """A string is not valid JSON, or has a lone surrogate, which JSON can escape and UTF-8 cannot encode."""


class BadBase64(ValueError):
    """A string is not base64. The message says why."""


SPOOL_THRESHOLD = 64 * 1024
PIECE = 16 * 1024
"""Bytes that are scanned in one step: about a millisecond for the worst input."""
MAX_SMALL_JSON = 4 * 1024 * 1024
"""Bytes of a document without its long strings. A graph of thousands of nodes has half a megabyte."""
MAX_VALUES = 100_000
"""Commas, colons and opening brackets of a document. Each may become an object of dozens of bytes. A graph has some
thousands, 1,000 input sets of 14 values have 98,000."""
VALUE_BYTES = 64
"""Memory of a value beside its text: a comma, a colon or a bracket stands for about as much of Python's objects."""
MAX_DEPTH = 64
"""Nesting depth of a document. ComfyUI's documents are at most ten levels deep, and later code recurses over them."""
MAX_DIGITS = 100
"""Characters of one number. Python's cost grows with their square, and a double has 17 digits."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TOKENS = re.compile(rb'[^"]*+(?:"(?:[^"\\]++|\\.)*+"[^"]*+)*', re.DOTALL)
"""Whole strings and the tokens between them. Possessive quantifiers make it linear for any input. The outer one is not,
since up to Python 3.11.4 a possessive group that fails within does not go back to where it began."""
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_INSIDE = re.compile(rb"(?:[^\"\\]++|\\.)*+", re.DOTALL)
_ADJACENT = re.compile(rb'"\s*"')
_TO_DIGITS = bytes.maketrans(b"123456789eE.+-", b"0" * 14)
_LONG_NUMBER = b"0" * (MAX_DIGITS + 1)
_LARGE_EXPONENT = re.compile(rb"[eE]\+?[0-9]{3}")
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_ALL_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in _STEP)


class Scanner:
    """Moves long strings of a JSON byte stream to spools and writes the rest to `small`. It does not validate JSON.

    `size` is the number of bytes written to `small`; `has_large_exponent` says that a number may exceed a double.
    """

    def __init__(self, small: IO[bytes], new_spool: Callable[[], tuple[BinaryIO, bytes]]) -> None:
        self._new_spool = new_spool
        self._small = small
        self._rest = b""
        self._spool: BinaryIO | None = None
        self._placeholder = b""
        self._started = False
        self._values = 0
        self._strings = 0
        self._depth = 0
        self._tail = b""
        self.size = 0
        self.has_large_exponent = False

    @property
    def weight(self) -> int:
        """Bytes that the document takes in memory once it is parsed, long strings not counted."""
        return self.size + VALUE_BYTES * self._values

    def feed(self, piece: bytes) -> None:
        """Scan a piece of at most `PIECE` bytes. Raises ValueError or `BodyTooLarge`."""
        rest, self._rest = self._rest + piece, b""
        if not self._started:
            # A piece may be shorter than the mark.
            if len(rest) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(rest):
                self._rest = rest
                return
            rest, self._started = rest.removeprefix(_BYTE_ORDER_MARK), True  # RFC 8259, 8.1: a parser may ignore it
        # Each round consumes whole tokens or a part of one long string. An unfinished short string stays in `_rest`
        # for the next piece; it holds at most SPOOL_THRESHOLD bytes, so rescanning it is cheap.
        while rest:
            if self._spool is not None:
                rest = self._into_the_spool(rest)
                if self._spool is not None:
                    break
            elif _begins_with_a_long_string(rest):
                self._spool, self._placeholder = self._new_spool()
                rest = rest[1:]
            else:
                end = _TOKENS.match(rest).end()  # type: ignore[union-attr]  # it matches the empty string
                self._keep(rest[:end])
                rest = rest[end:]
                if not _begins_with_a_long_string(rest):
                    break
        self._rest = rest

    def finish(self) -> None:
        """Raise ValueError if the stream ended within a string."""
        if self._rest or self._spool is not None:
            raise ValueError("it ends within a string")

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()

    def _into_the_spool(self, rest: bytes) -> bytes:
        """Write the long string's bytes to its spool and return the bytes that follow, or half an escape of it."""
        assert self._spool is not None  # noqa: S101  only called inside a long string
        end = _INSIDE.match(rest).end()  # type: ignore[union-attr]  # it matches the empty string
        self._spool.write(rest[:end])
        if rest[end : end + 1] == b'"':
            self._spool.close()
            self._spool = None
            self._keep(b'"%b"' % self._placeholder)
            return rest[end + 1 :]
        return rest[end:]  # at most half an escape

    def _keep(self, tokens: bytes) -> None:
        self._weigh(_STRING.sub(b'"', tokens))
        self.size += len(tokens)
        if self.size > MAX_SMALL_JSON:
            raise BodyTooLarge(f"more than {MAX_SMALL_JSON} bytes without its long strings")
        self._small.write(tokens)

    def _weigh(self, skeleton: bytes) -> None:
        """Check the limits on tokens whose strings are reduced to one quote each."""
        # The limits apply before parsing because a parser fills the memory within milliseconds and cannot be cancelled.
        self._values += sum(skeleton.count(mark) for mark in (b",", b":", b"[", b"{"))
        self._strings += skeleton.count(b'"')
        if self._values > MAX_VALUES:
            raise BodyTooLarge(f"more than {MAX_VALUES} values")
        joined = self._tail + skeleton  # the tail catches a number or a pair of strings split between two pieces
        # The count of values is one of separators, so strings without a separator would escape its limit.
        if self._strings > self._values + 1 or _ADJACENT.search(joined):
            raise ValueError("two strings without a comma or a colon between them")
        # Every character of a number becomes 0, so that one search in C finds a long number.
        if _LONG_NUMBER in joined.translate(_TO_DIGITS):
            raise ValueError(f"a number of more than {MAX_DIGITS} characters")
        # A double holds MAX_DIGITS digits with an exponent of two digits, so only three of them can exceed it.
        self.has_large_exponent = self.has_large_exponent or _LARGE_EXPONENT.search(joined) is not None
        self._tail = joined[-MAX_DIGITS:]
        steps = map(_STEP.__getitem__, skeleton.translate(None, _ALL_BUT_BRACKETS))
        depths = list(accumulate(steps, initial=self._depth))
        if max(depths) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        if min(depths) < 0:
            raise ValueError("it closes a bracket that was not opened")
        self._depth = depths[-1]


def _begins_with_a_long_string(rest: bytes) -> bool:
    if len(rest) <= SPOOL_THRESHOLD or not rest.startswith(b'"'):
        return False
    whole = _STRING.match(rest)
    return (len(rest) - 1 if whole is None else whole.end() - 2) > SPOOL_THRESHOLD

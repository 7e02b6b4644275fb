"""JSON as it arrives: which of its bytes are long strings, and which are all the rest. Sans-I/O but for those files.

All work is done by compiled regular expressions and other C loops over pieces of `PIECE` bytes, because Python code
for each string or bracket lets a few megabytes of empty strings hold the event loop for seconds. What the parser will
have to build is bounded here, before it starts: values, depth, digits of a number, strings without a separator.
"""

import re
from collections.abc import Callable
from itertools import accumulate
from typing import IO, BinaryIO

from app.body._errors import BodyTooLarge

SPOOL_THRESHOLD = 64 * 1024
PIECE = 16 * 1024
"""Bytes that are scanned without a pause: about a millisecond of the worst input."""
MAX_SMALL_JSON = 4 * 1024 * 1024
"""What may be left when the long strings are taken out: a graph of thousands of nodes has half a megabyte."""
MAX_VALUES = 100_000
"""Commas, colons and opening brackets: each may become an object of dozens of bytes. A graph has some thousands,
1,000 input sets of 14 values have 98,000."""
MAX_DEPTH = 64
"""ComfyUI's own documents are ten deep at most; everything behind this may recurse."""
MAX_DIGITS = 100
"""Characters of one number: Python's cost grows with their square, and a double has 17 digits."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TOKENS = re.compile(rb'(?:[^"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""Whole strings and what stands between them. Possessive: linear, whatever the input."""
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_INSIDE = re.compile(rb"(?:[^\"\\]++|\\.)*+", re.DOTALL)
_ADJACENT = re.compile(rb'"\s*"')
_TO_DIGITS = bytes.maketrans(b"123456789eE.+-", b"0" * 14)
_LONG_NUMBER = b"0" * (MAX_DIGITS + 1)
_LARGE_EXPONENT = re.compile(rb"[eE]\+?[0-9]{3}")
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_ALL_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in _STEP)


class Scanner:
    """Finds the strings in a stream of JSON bytes, whatever else is wrong with it. What is left goes to `small`.

    `size` is the number of bytes that were left; `has_large_exponent` says that a number may be beyond a double.
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

    def feed(self, piece: bytes) -> None:
        """At most `PIECE` bytes at a time keep the loop free; ValueError or `BodyTooLarge` for what is refused."""
        rest, self._rest = self._rest + piece, b""
        if not self._started:
            if len(rest) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(rest):
                self._rest = rest
                return
            rest, self._started = rest.removeprefix(_BYTE_ORDER_MARK), True  # RFC 8259, 8.1: a parser may ignore it
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
        if self._rest or self._spool is not None:
            raise ValueError("it ends within a string")

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()

    def _into_the_spool(self, rest: bytes) -> bytes:
        """What of `rest` follows the long string; all of it belongs to the string where that does not end yet."""
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
        """`skeleton` has one quote for each string. A parser is quick to fill the memory and cannot be stopped."""
        self._values += sum(skeleton.count(mark) for mark in (b",", b":", b"[", b"{"))
        self._strings += skeleton.count(b'"')
        if self._values > MAX_VALUES:
            raise BodyTooLarge(f"more than {MAX_VALUES} values")
        joined = self._tail + skeleton
        if self._strings > self._values + 1 or _ADJACENT.search(joined):
            raise ValueError("two strings without a comma or a colon between them")
        if _LONG_NUMBER in joined.translate(_TO_DIGITS):
            raise ValueError(f"a number of more than {MAX_DIGITS} characters")
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

"""Bounds the trailer fields of a chunked answer before h11 parses them, which takes as long as for fields of a head."""

import re

_CHUNKED = re.compile(rb"(?im)^transfer-encoding[ \t]*:")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,20}")
"""As h11 has it."""
_LONGEST_SIZE = 32
"""Characters of a chunk's size that are kept; h11 accepts 20 digits."""


def is_chunked(head: bytes) -> bool:
    """Whether an answer with this head may have chunks; h11 refuses any other transfer encoding."""
    return _CHUNKED.search(head) is not None


class Trailers:
    """Follows the chunks of a body, whose pieces may be split anywhere, and counts its trailer fields."""

    def __init__(self) -> None:
        self.fields = 0
        self._left = 0
        """Bytes of the current chunk that are still to come, with the line end after them."""
        self._size = b""
        """The beginning of the line with the next chunk's size."""
        self._is_in_trailers = False
        self._is_broken = False

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self._is_broken:
            if self._is_in_trailers:
                self.fields += data.count(b"\n", at)
                return
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
            else:
                end = data.find(b"\n", at)
                self._size = (self._size + data[at : None if end < 0 else end])[:_LONGEST_SIZE]
                if end < 0:
                    return
                self._begin_chunk()
                at = end + 1

    def _begin_chunk(self) -> None:
        digits = self._size.partition(b";")[0].strip(b" \t\r\n")
        # Python would also take a sign, which would lead backwards, an underscore or 0x.
        if not _SIZE.fullmatch(digits):  # h11 will refuse it
            self._is_broken = True
            return
        size = int(digits, 16)
        self._size = b""
        self._is_in_trailers = size == 0
        self._left = size + len(b"\r\n") if size else 0

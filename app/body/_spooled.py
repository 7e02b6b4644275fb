"""A string of a document, in memory or in a file, and the decoding of its base64."""

import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from app.body._scanner import BadBase64, BadText, BodyTooLarge, TextTooLong

CHUNK = 1024 * 1024
_WHITESPACE = b" \t\r\n\f\v"
_DATA_URL = re.compile(rb"data:[^,]{0,200},")


class SpooledText:
    """A string of the document: in memory if it is short, in a file otherwise. The file holds its JSON escapes."""

    def __init__(self, source: str | Path) -> None:
        self._source = source

    def text(self, limit: int) -> str:
        """Return the whole string. Raises `TextTooLong` beyond `limit` bytes, and `BadText`."""
        if isinstance(self._source, str):
            return self._source
        if self._source.stat().st_size > limit:
            raise TextTooLong(f"a text of {self._source.stat().st_size} bytes, at most {limit} are allowed")
        try:
            text: str = parsed_text((b'"' + self._source.read_bytes() + b'"').decode())
        except ValueError as error:
            raise BadText(f"a long string is not JSON: {error}"[:200]) from None
        return text

    @property
    def held_bytes(self) -> int:
        """The bytes that reading it into memory would add; 0 if it is in memory."""
        return 0 if isinstance(self._source, str) else self._source.stat().st_size

    def decode_base64(self, path: Path, limit: int) -> int:
        """Write the decoded bytes to `path` and return their number. Raises `BodyTooLarge` beyond `limit`, `BadBase64`.

        A data: URL's head, white space and missing padding are accepted, as the first version of the API did.
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
        """Yield the string's characters with JSON escapes resolved."""
        if isinstance(self._source, str):
            yield self._source.encode()
            return
        with self._source.open("rb") as file:
            rest = b""
            while chunk := file.read(CHUNK):
                chunk = rest + chunk
                cut = len(chunk)
                # The longest escape, \uXXXX, has six bytes: a backslash among the last six may begin a split escape.
                tail = chunk.rfind(b"\\", max(0, cut - 6))
                if tail >= 0:
                    cut = tail
                chunk, rest = chunk[:cut], chunk[cut:]
                yield _unescaped(chunk)
            yield _unescaped(rest)


def _decoded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Decode base64 from pieces of any length, in whole quanta of four characters."""
    rest = b""
    at_start = True
    for piece in pieces:
        characters = rest + piece
        # The first piece is the whole string or about a megabyte, so it contains the whole head of a data: URL.
        if at_start:
            characters = _DATA_URL.sub(b"", characters, count=1) if characters.startswith(b"data:") else characters
            at_start = False
        characters = characters.translate(None, _WHITESPACE)
        cut = len(characters) - len(characters) % 4
        if characters[cut - 1 : cut] == b"=":
            cut -= 4  # a padded quantum is held back: padding is valid only at the end of the whole string
        if b"=" in characters[:cut]:
            raise BadBase64("padding before the end")
        rest = characters[cut:]
        yield _decode(characters[:cut])
    yield _decode(rest + b"=" * (-len(rest) % 4))


def _decode(quanta: bytes) -> bytes:
    try:
        return binascii.a2b_base64(quanta, strict_mode=True)  # otherwise characters outside the alphabet are skipped
    except binascii.Error as error:
        raise BadBase64(_plain(str(error))) from None


def _plain(message: str) -> str:
    """Return the message of Python's decoder in plain words."""
    if message.startswith("Only base64"):
        return "it has a character that base64 has not"
    return "its padding (=) is wrong" if "padding" in message else "its length is none that base64 can have"


def _unescaped(chunk: bytes) -> bytes:
    """Resolve JSON escapes: `\\u002B` and `\\/` are valid spellings of base64's own characters."""
    if b"\\" not in chunk:
        return chunk
    try:
        # The JSON parser resolves them in C. A Python callback per escape takes minutes for a file of escapes.
        text: str = parsed_text((b'"' + chunk.translate(None, _WHITESPACE) + b'"').decode())
    except ValueError as error:
        raise BadBase64(f"not a JSON string: {error}"[:200]) from None
    return text.encode()


def parsed_text(text: str) -> Any:
    """Parse JSON and raise ValueError for a lone surrogate, which UTF-8 cannot encode."""
    return from_json(text, allow_inf_nan=False)

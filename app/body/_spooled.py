"""One string of a document, however long, and the file that its base64 stands for."""

import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from app.body._errors import BadBase64, BadText, BodyTooLarge, TextTooLong

CHUNK = 1024 * 1024
_WHITESPACE = b" \t\r\n\f\v"
_DATA_URL = re.compile(rb"data:[^,]{0,200},")


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
            text: str = parsed_text((b'"' + self._source.read_bytes() + b'"').decode())
        except ValueError as error:
            raise BadText(f"a long string is not JSON: {error}"[:200]) from None
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
                yield _unescaped(chunk)
            yield _unescaped(rest)


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


def _unescaped(chunk: bytes) -> bytes:
    """`\\u002B` and `\\/` are ways to write base64's own characters. The parser resolves them, for a callback in Python
    for each would take minutes for a file that consists of them."""
    if b"\\" not in chunk:
        return chunk
    try:
        text: str = parsed_text((b'"' + chunk.translate(None, _WHITESPACE) + b'"').decode())
    except ValueError as error:
        raise BadBase64(f"not a JSON string: {error}"[:200]) from None
    return text.encode()


def parsed_text(text: str) -> Any:
    """JSON whose strings hold no half of a surrogate pair, which UTF-8 cannot write and so nothing could store."""
    return from_json(text, allow_inf_nan=False)

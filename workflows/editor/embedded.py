"""Finds the workflow that ComfyUI writes into its outputs: PNG, WebP, FLAC and MP4.

The same names are used everywhere: `workflow` is the editor's file, `prompt` the graph in API format. PNG has them in
text chunks, WebP in strings of the EXIF block (`workflow:{…}`), FLAC in a Vorbis comment, MP4 in `keys` and `ilst`.
A file may have any number of texts, so only those of the two names are read, and of each the last one.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NAMES = ("workflow", "prompt")
MOST_TEXT = 16 * 1024 * 1024
"""Bytes of both texts of a file after decompression. A file with more has no workflow."""
DEEPEST_BOXES = 8
_PNG, _FLAC = b"\x89PNG\r\n\x1a\n", b"fLaC"
_CONTAINERS = (b"moov", b"udta", b"meta")
_LONGEST_HEAD = 400
"""Bytes at the start of a text chunk in which its name, its languages and its other members are."""


@dataclass(frozen=True, slots=True)
class _Text:
    """A text and its place in the file."""

    name: bytes
    begin: int
    end: int
    encoding: str = "utf-8"
    is_packed: bool = False

    def read(self, data: bytes, most: int) -> str:
        """Return the text. Raises ValueError if it has more bytes than `most`."""
        found = data[self.begin : min(self.end, self.begin + most + 1)]
        if self.is_packed:
            found = zlib.decompressobj().decompress(found, most + 1)
        if len(found) > most:
            raise ValueError("the text is too long")
        return found.rstrip(b"\0").decode(self.encoding)


def embedded_workflows(data: bytes) -> dict[str, Any]:
    """Return the JSON values of `workflow` and `prompt` in the file, those that are there. Never raises."""
    try:
        texts = {name: text for text in _texts(data) if (name := text.name.decode("latin-1").lower()) in NAMES}
        read, left = {}, MOST_TEXT
        for name, text in texts.items():
            read[name] = text.read(data, left)
            left -= len(read[name].encode())
    except (struct.error, zlib.error, IndexError, ValueError):
        return {}  # a truncated or malformed file has no workflow
    found = {}
    for name in NAMES:
        try:
            found[name] = json.loads(read[name])
        except (KeyError, ValueError, RecursionError):
            continue
    return found


def _texts(data: bytes) -> Iterator[_Text]:
    if data.startswith(_PNG):
        yield from _png(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        yield from _webp(data)
    elif data.startswith(_FLAC):
        yield from _flac(data)
    elif data[4:8] == b"ftyp":
        yield from _mp4(data, 0, len(data), 0)


def _png(data: bytes) -> Iterator[_Text]:
    place = len(_PNG)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        begin, end = place + 8, min(place + 8 + length, len(data))
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            name, _, rest = data[begin : min(end, begin + _LONGEST_HEAD)].partition(b"\0")
            after = begin + len(name) + 1
            if name.decode("latin-1") in NAMES:
                if kind == b"tEXt":
                    yield _Text(name, after, end, "latin-1")
                elif kind == b"zTXt":
                    yield _Text(name, after + 1, end, "latin-1", is_packed=True)
                else:
                    # Whether it is packed, how, and two texts before the text itself: its language and its name there.
                    language, translated, _ = rest[2:].split(b"\0", 2)
                    after += 2 + len(language) + len(translated) + 2
                    yield _Text(name, after, end, is_packed=bool(rest[0]))
        place += 12 + length


def _webp(data: bytes) -> Iterator[_Text]:
    place = 12
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        if kind == b"EXIF":
            begin = place + 8
            begin += 6 * (data[begin : begin + 6] == b"Exif\0\0")
            yield from _exif(data, begin, min(place + 8 + length, len(data)))
        place += 8 + length + length % 2


def _exif(data: bytes, begin: int, end: int) -> Iterator[_Text]:
    """Yield the ASCII strings in the first directory that are `name:text`. Strings may overlap."""
    order = "<" if data[begin : begin + 2] == b"II" else ">"
    (directory,) = struct.unpack_from(f"{order}I", data, begin + 4)
    (entries,) = struct.unpack_from(f"{order}H", data, begin + directory)
    if begin + directory + 2 + 12 * entries > end:
        raise ValueError("the block ends before its directory")  # many small blocks could name one long directory
    for number in range(entries):
        _, kind, count, offset = struct.unpack_from(f"{order}HHII", data, begin + directory + 2 + 12 * number)
        if kind == 2 and count > 4:
            start, stop = begin + offset, min(begin + offset + count, end)
            name, colon, _ = data[start : min(stop, start + _LONGEST_HEAD)].partition(b":")
            if colon:
                yield _Text(name, start + len(name) + 1, stop)


def _flac(data: bytes) -> Iterator[_Text]:
    place, is_last = 4, False
    while not is_last and place + 4 <= len(data):
        is_last, kind = bool(data[place] & 0x80), data[place] & 0x7F
        length = int.from_bytes(data[place + 1 : place + 4], "big")
        if kind == 4:
            yield from _vorbis(data, place + 4, min(place + 4 + length, len(data)))
        place += 4 + length


def _vorbis(data: bytes, begin: int, end: int) -> Iterator[_Text]:
    (vendor,) = struct.unpack_from("<I", data, begin)
    (comments,) = struct.unpack_from("<I", data, begin + 4 + vendor)
    place = begin + 8 + vendor
    for _ in range(comments):
        if place + 4 > end:
            raise ValueError("the block ends before its comments")
        (length,) = struct.unpack_from("<I", data, place)
        start, stop = place + 4, min(place + 4 + length, end)
        name, equals, _ = data[start : min(stop, start + _LONGEST_HEAD)].partition(b"=")
        if equals:
            yield _Text(name, start + len(name) + 1, stop)
        place += 4 + length


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield each box as (type, start and end of its content)."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            header = 16
        size = size or end - start
        if size < header:
            return
        yield kind, start + header, min(start + size, end)
        start += size


def _mp4(data: bytes, start: int, end: int, depth: int) -> Iterator[_Text]:
    names: dict[int, bytes] = {}
    for kind, begin, stop in _boxes(data, start, end):
        if kind in _CONTAINERS and depth < DEEPEST_BOXES:
            # QuickTime's `meta` has no version and flags before its boxes, ISO's has.
            versioned = kind == b"meta" and data[begin + 4 : begin + 8] != b"hdlr"
            yield from _mp4(data, begin + 4 * versioned, stop, depth + 1)
        elif kind == b"keys":
            listed = (data[at : min(to, at + _LONGEST_HEAD)] for _, at, to in _boxes(data, begin + 8, stop))
            names = {number: name for number, name in enumerate(listed, start=1) if name.decode("latin-1") in NAMES}
        elif kind == b"ilst":
            for number, at, to in _boxes(data, begin, stop):
                name = names.get(int.from_bytes(number, "big"))
                for inner, value, value_end in _boxes(data, at, to) if name is not None else ():
                    if inner == b"data" and name is not None:
                        yield _Text(name, value + 8, value_end)

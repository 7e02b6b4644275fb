"""Finds the workflow that ComfyUI writes into its outputs: PNG, WebP, FLAC and MP4.

The same names are used everywhere: `workflow` is the editor's file, `prompt` the graph in API format. PNG has them in
text chunks, WebP in strings of the EXIF block (`workflow:{…}`), FLAC in a Vorbis comment, MP4 in `keys` and `ilst`.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

NAMES = ("workflow", "prompt")
MOST_TEXT = 16 * 1024 * 1024
"""Bytes of one embedded text after decompression."""
DEEPEST_BOXES = 8
_PNG, _FLAC = b"\x89PNG\r\n\x1a\n", b"fLaC"
_CONTAINERS = (b"moov", b"udta", b"meta")


def embedded_workflows(data: bytes) -> dict[str, Any]:
    """Return the JSON values of `workflow` and `prompt` in the file, those that are there. Never raises."""
    try:
        texts = dict(_texts(data))
    except (struct.error, zlib.error, IndexError, UnicodeError, ValueError):
        return {}  # a truncated or malformed file has no workflow
    found = {}
    for name in NAMES:
        try:
            found[name] = json.loads(texts[name])
        except (KeyError, ValueError, RecursionError):
            continue
    return found


def _texts(data: bytes) -> Iterator[tuple[str, str]]:
    if data.startswith(_PNG):
        yield from _png(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        yield from _webp(data)
    elif data.startswith(_FLAC):
        yield from _flac(data)
    elif data[4:8] == b"ftyp":
        yield from _mp4(data, 0, len(data), 0)


def _png(data: bytes) -> Iterator[tuple[str, str]]:
    place = len(_PNG)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        body = data[place + 8 : place + 8 + length]
        if kind == b"tEXt":
            name, _, text = body.partition(b"\0")
            yield name.decode("latin-1"), text.decode("latin-1")
        elif kind == b"zTXt":
            name, _, packed = body.partition(b"\0")
            yield name.decode("latin-1"), _inflated(packed[1:]).decode("latin-1")
        elif kind == b"iTXt":
            name, _, rest = body.partition(b"\0")
            text = rest[2:].split(b"\0", 2)[2]
            yield name.decode("latin-1"), (_inflated(text) if rest[0] else text).decode()
        place += 12 + length


def _inflated(packed: bytes) -> bytes:
    return zlib.decompressobj().decompress(packed, MOST_TEXT)


def _webp(data: bytes) -> Iterator[tuple[str, str]]:
    place = 12
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        if kind == b"EXIF":
            exif = data[place + 8 : place + 8 + length]
            yield from _exif(exif.removeprefix(b"Exif\0\0"))
        place += 8 + length + length % 2


def _exif(exif: bytes) -> Iterator[tuple[str, str]]:
    """Yield `name: text` of the ASCII strings in the first directory."""
    order = "<" if exif[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(f"{order}I", exif, 4)
    (entries,) = struct.unpack_from(f"{order}H", exif, directory)
    for number in range(entries):
        _, kind, count, offset = struct.unpack_from(f"{order}HHII", exif, directory + 2 + 12 * number)
        if kind == 2 and count > 4:
            name, colon, text = exif[offset : offset + count].rstrip(b"\0").partition(b":")
            if colon:
                yield name.decode("latin-1").lower(), text.decode()


def _flac(data: bytes) -> Iterator[tuple[str, str]]:
    place, is_last = 4, False
    while not is_last and place + 4 <= len(data):
        is_last, kind = bool(data[place] & 0x80), data[place] & 0x7F
        length = int.from_bytes(data[place + 1 : place + 4], "big")
        if kind == 4:
            yield from _vorbis(data[place + 4 : place + 4 + length])
        place += 4 + length


def _vorbis(block: bytes) -> Iterator[tuple[str, str]]:
    (vendor,) = struct.unpack_from("<I", block, 0)
    (comments,) = struct.unpack_from("<I", block, 4 + vendor)
    place = 8 + vendor
    for _ in range(comments):
        (length,) = struct.unpack_from("<I", block, place)
        name, _, text = block[place + 4 : place + 4 + length].partition(b"=")
        yield name.decode().lower(), text.decode()
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


def _mp4(data: bytes, start: int, end: int, depth: int) -> Iterator[tuple[str, str]]:
    names: list[str] = []
    for kind, begin, stop in _boxes(data, start, end):
        if kind in _CONTAINERS and depth < DEEPEST_BOXES:
            # QuickTime's `meta` has no version and flags before its boxes, ISO's has.
            versioned = kind == b"meta" and data[begin + 4 : begin + 8] != b"hdlr"
            yield from _mp4(data, begin + 4 * versioned, stop, depth + 1)
        elif kind == b"keys":
            names = [data[at:to].decode() for _, at, to in _boxes(data, begin + 8, stop)]
        elif kind == b"ilst":
            for number, at, to in _boxes(data, begin, stop):
                index = int.from_bytes(number, "big") - 1
                for inner, value, value_end in _boxes(data, at, to):
                    if inner == b"data" and 0 <= index < len(names):
                        yield names[index], data[value + 8 : value_end].decode()
